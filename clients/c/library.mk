# The library, in three flavours: plain, sanitized (ASan and UBSan), threads (TSan). Everything goes to build/c of the repository.
# A C11 compiler is all it needs; with libcrypto and libssl (crypto.mk) it signs.
CC ?= cc
CXX ?= c++
AR ?= ar
CFLAGS ?= -O2 -g
C_DIR := $(abspath $(dir $(lastword $(MAKEFILE_LIST))))
BUILD ?= $(abspath $(C_DIR)/../..)/build/c
include $(C_DIR)/crypto.mk
# WERROR=-Werror in tests: a compiler that is newer than this file may know warnings that stop nobody's build.
WERROR ?=
WARNINGS := -Wall -Wextra -Wpedantic -Wconversion -Wshadow $(WERROR)
STRICT := -std=c11 -Wstrict-prototypes -Wmissing-prototypes $(WARNINGS) -I$(C_DIR) $(CRYPTO_FLAGS)
STRICT_CXX := -std=c++17 $(WARNINGS) -I$(C_DIR) $(CRYPTO_FLAGS)
plain_FLAGS := -fPIC -fvisibility=hidden -fno-semantic-interposition $(CFLAGS)
sanitized_FLAGS := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
threads_FLAGS := -O1 -g -fsanitize=thread
SOURCES := $(wildcard $(C_DIR)/src/*.c)
HEADERS := $(addprefix $(C_DIR)/,twire.h twire_core.h)
objects = $(patsubst $(C_DIR)/src/%.c,$(BUILD)/objects/$(1)/%.o,$(SOURCES))

library: $(BUILD)/libtwire.a $(BUILD)/libtwire.so

# Objects are made anew when libcrypto comes or goes.
$(BUILD)/.crypto-$(CRYPTO):
	@mkdir -p $(BUILD)
	@rm -f $(BUILD)/.crypto-*
	@touch $@

define flavour
$(BUILD)/objects/$(1)/%.o: $(C_DIR)/src/%.c $(C_DIR)/library.mk $(BUILD)/.crypto-$(CRYPTO)
	@mkdir -p $$(@D)
	$$(CC) $$(STRICT) $$(CPPFLAGS) $$($(1)_FLAGS) -MMD -MP -c $$< -o $$@
-include $(patsubst %.o,%.d,$(call objects,$(1)))
endef
$(foreach one,plain sanitized threads,$(eval $(call flavour,$(one))))

$(BUILD)/libtwire.a: $(call objects,plain)
$(BUILD)/libtwire-sanitized.a: $(call objects,sanitized)
$(BUILD)/libtwire-threads.a: $(call objects,threads)
$(BUILD)/libtwire.a $(BUILD)/libtwire-sanitized.a $(BUILD)/libtwire-threads.a:
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/libtwire.so: $(call objects,plain)
	$(CC) -shared $(LDFLAGS) -Wl,-soname,libtwire.so $^ $(CRYPTO_LIBS) -o $@

.PHONY: library
