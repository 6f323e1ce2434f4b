/* extension.h: what extension.c does for the core (SPEC 4). */
#ifndef TWIRE_EXTENSION_H
#define TWIRE_EXTENSION_H

#include "bytes.h"

enum { ITEM_DIMS = 1, ITEM_BODY_LENGTH = 2, ITEM_TRACE = 5, ITEM_TIMING = 6, ITEM_RETRY = 7, ITEM_QUEUE = 8 };
#define ITEM(type) (1u << (type))

uint32_t twire__extension_items(const uint8_t *bytes, size_t length, uint64_t *body_length);
size_t twire__extension_size(size_t dim_count, bool body_length, bool trace);
void twire__extension_write(uint8_t *p, const uint64_t *dims, size_t dim_count, uint64_t body_length, const uint8_t *trace);

#endif
