# Signing needs libcrypto (OpenSSL 1.1 or later; Debian: libssl-dev). Used where pkg-config or the compiler finds it; CRYPTO=no
# leaves it out, CRYPTO=yes insists. Objects depend on a
# file .crypto-$(CRYPTO), so that they are made anew when this changes.
CRYPTO_FLAGS := $(shell pkg-config --cflags libcrypto 2>/dev/null)
CRYPTO ?= $(shell echo '\#include <openssl/evp.h>' | $(CC) $(CRYPTO_FLAGS) -E -x c - > /dev/null 2>&1 && echo yes || echo no)
ifeq ($(CRYPTO),yes)
CRYPTO_FLAGS += -DTWIRE_CRYPTO
CRYPTO_LIBS := $(or $(shell pkg-config --libs libcrypto 2>/dev/null),-lcrypto)
else
override CRYPTO_FLAGS :=
endif
