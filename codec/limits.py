"""The caps of the codec, each with its unit and reason. SPEC 18 repeats the ones that are normative.

What lives here: numbers. What must not: anything negotiated per connection (that is protocol.Limits).
"""

from __future__ import annotations

MAX_DIMS = 8
"""Dimensions of one tensor. Covers video batches and attention caches; keeps shape arithmetic bounded."""

MAX_DIM = 1 << 48
"""Size of one dimension, elements. Above any memory; a product of 8 of them stays a small Python int."""

MAX_BODY_BYTES = 1 << 56
"""One message's body, bytes. Far below 2^63, so that every offset fits a signed 64-bit integer everywhere."""

MAX_FREE_DIMS = 124
"""Sizes in the dims of one message: what the extension's 1024 bytes hold beside every other item (SPEC 18.4, 19)."""

MAX_TENSORS = 1024
"""Tensors of one message: bounds the work that one call can ask for (1024 of them are read in about 7 ms)."""

MAX_NAME_BYTES = 256
"""UTF-8 bytes of a model, version or tensor name; a name is a dictionary key, never a path."""

MAX_METADATA_BYTES = 65536
"""Metadata of one message, bytes: the frame header's cap after authentication (4096 before it)."""

ALIGNMENT = 64
"""Bytes: a cache line and the widest vector register, so that a view of the body is as good as an allocation."""

MAX_SERVICE_BYTES = 65536
"""One msgpack service message, bytes: it is parsed whole, so it must be small."""

MAX_SERVICE_DEPTH = 8
"""Nesting of a service message, levels; ours use 5."""

MAX_SERVICE_ITEMS = 16384
"""Values in one service message, keys included; a list of 1000 models with five fields each needs 11,000."""

MAX_IMAGE_PIXELS = 16384
"""Height or width in an image hint, pixels: the client makes a picture of that size because a server says so."""
