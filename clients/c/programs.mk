# The programs on the C client: `make -C clients/c load examples`. They go to build/c/; with SANITIZE=1, built with
# AddressSanitizer and UBSan, to build/c/sanitized/.
PROGRAMS_C := $(abspath $(dir $(lastword $(MAKEFILE_LIST))))
PROGRAMS := $(abspath $(PROGRAMS_C)/../..)/build/c$(if $(SANITIZE),/sanitized)
include $(PROGRAMS_C)/crypto.mk
PROGRAM_WARNINGS := -Wall -Wextra -Wpedantic -Werror -Wconversion -Wshadow
PROGRAM_FLAGS := -I$(PROGRAMS_C) $(CRYPTO_FLAGS) -g -pthread $(PROGRAM_WARNINGS) \
	$(if $(SANITIZE),-O1 -fsanitize=address -fsanitize=undefined -fno-sanitize-recover=all -fno-omit-frame-pointer,-O2)
PROGRAM_CC = $(CC) -std=c11 -Wstrict-prototypes -Wmissing-prototypes $(PROGRAM_FLAGS)
PROGRAM_CXX = $(CXX) -std=c++17 $(PROGRAM_FLAGS)
LOAD := $(addprefix $(PROGRAMS_C)/load/,load.c load_cli.c)
LOAD_HEADERS := $(addprefix $(PROGRAMS_C)/load/,load.h histogram.h)
EXAMPLES := $(addprefix $(PROGRAMS)/examples/,classify pipeline loop loop_client robot)

load: $(PROGRAMS)/twire-load $(PROGRAMS)/raw-load
examples: $(EXAMPLES)

$(PROGRAMS)/programs/.crypto-$(CRYPTO):
	@mkdir -p $(@D)
	@rm -f $(@D)/.crypto-*
	@touch $@

$(PROGRAMS)/programs/twire.o: $(PROGRAMS_C)/twire.c $(PROGRAMS_C)/twire.h $(PROGRAMS)/programs/.crypto-$(CRYPTO)
	@mkdir -p $(@D)
	$(PROGRAM_CC) -c $< -o $@

$(PROGRAMS)/twire-load: $(PROGRAMS_C)/load/twire_load.c $(LOAD) $(PROGRAMS)/programs/twire.o $(LOAD_HEADERS)
	$(PROGRAM_CC) $(filter %.c %.o,$^) $(CRYPTO_LIBS) -o $@

$(PROGRAMS)/raw-load: $(PROGRAMS_C)/load/raw_load.c $(LOAD) $(LOAD_HEADERS)
	@mkdir -p $(@D)
	$(PROGRAM_CC) $(filter %.c,$^) -o $@

$(PROGRAMS)/examples/%: $(PROGRAMS_C)/examples/%.c $(PROGRAMS)/programs/twire.o
	@mkdir -p $(@D)
	$(PROGRAM_CC) $^ $(CRYPTO_LIBS) -o $@

$(PROGRAMS)/examples/%: $(PROGRAMS_C)/examples/%.cpp $(PROGRAMS)/programs/twire.o $(PROGRAMS_C)/twire.hpp
	@mkdir -p $(@D)
	$(PROGRAM_CXX) $(filter %.cpp %.o,$^) $(CRYPTO_LIBS) -o $@

.PHONY: load examples
