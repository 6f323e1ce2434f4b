# The programs on the C client: `make -C clients/c load examples`. They go to build/c/; with SANITIZE=1, built with
# AddressSanitizer and UBSan, to build/c/sanitized/.
include $(dir $(lastword $(MAKEFILE_LIST)))library.mk
PROGRAMS := $(BUILD)$(if $(SANITIZE),/sanitized)
PROGRAM_LIBRARY := $(BUILD)/libtwire$(if $(SANITIZE),-sanitized).a
PROGRAM_FLAGS := -pthread $(if $(SANITIZE),$(sanitized_FLAGS),$(CFLAGS))
LOAD := $(addprefix $(C_DIR)/load/,load.c load_cli.c)
LOAD_HEADERS := $(addprefix $(C_DIR)/load/,load.h histogram.h)
EXAMPLES := $(addprefix $(PROGRAMS)/examples/,classify pipeline loop loop_client robot)

load: $(PROGRAMS)/twire-load $(PROGRAMS)/raw-load
examples: $(EXAMPLES)

$(PROGRAMS)/twire-load: $(C_DIR)/load/twire_load.c $(LOAD) $(PROGRAM_LIBRARY) $(LOAD_HEADERS) $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(STRICT) $(PROGRAM_FLAGS) $(filter %.c %.a,$^) $(CRYPTO_LIBS) -o $@

$(PROGRAMS)/raw-load: $(C_DIR)/load/raw_load.c $(LOAD) $(LOAD_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(STRICT) $(PROGRAM_FLAGS) $(filter %.c,$^) -o $@

$(PROGRAMS)/examples/%: $(C_DIR)/examples/%.c $(PROGRAM_LIBRARY) $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(STRICT) $(PROGRAM_FLAGS) $(filter %.c %.a,$^) $(CRYPTO_LIBS) -o $@

$(PROGRAMS)/examples/%: $(C_DIR)/examples/%.cpp $(PROGRAM_LIBRARY) $(HEADERS) $(C_DIR)/twire.hpp
	@mkdir -p $(@D)
	$(CXX) $(STRICT_CXX) $(PROGRAM_FLAGS) $(filter %.cpp %.a,$^) $(CRYPTO_LIBS) -o $@

.PHONY: load examples
