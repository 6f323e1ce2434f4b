"""Calls, and replies, that are like the one before: compared as bytes, not parsed again.

A fact about bytes that were found good, so one detector serves all connections that have the same rules.
"""

from __future__ import annotations

from struct import Struct

from .header import HEADER, HEADER_SIZE, Header


class FrameTemplate:
    """A unary call, or a reply, of one frame that was found good: another one that has the same bytes but for its
    stream, deadline and body is as good, and is taken without a second look. `size` is all of it, its body begins at
    `body`, `before` and `behind` are what is compared, to the left and right of what may differ.
    """

    __slots__ = ("before", "behind", "body", "ext", "flags", "meta", "priority", "size", "unpack")

    def __init__(self, header: Header, ext: bytes, meta: bytes) -> None:
        length, _, priority, flags, _, _, _, meta_len, ext_len, _ = header
        self.ext = ext
        self.meta = meta
        self.flags = flags
        self.priority = priority
        self.size = HEADER_SIZE + length
        self.body = HEADER_SIZE + ext_len + meta_len
        whole = HEADER.pack(*header)
        self.before = whole[:8]
        self.behind = whole[24:] + ext + meta
        #: what is before, stream id, seq, aux, what is behind
        self.unpack = Struct(f"<8sQII{len(self.behind)}s").unpack_from


class RepeatDetector:
    """The last call, or reply, that came twice in a row."""

    __slots__ = ("_ext", "_meta", "template")

    def __init__(self) -> None:
        self._ext = b""
        self._meta = b""
        self.template: FrameTemplate | None = None

    def observe(self, header: Header, ext: bytes, meta: bytes) -> FrameTemplate | None:
        """Return what the next one is compared with; None, and nothing is kept, if this is not like the one before."""
        if meta is not self._meta or ext is not self._ext:
            self._ext, self._meta = ext, meta
            return None
        self.template = FrameTemplate(header, ext, meta)
        return self.template

    def matched(self, template: FrameTemplate) -> None:
        """Take in that the last frame was like that: the next other one is not the second of its kind in a row."""
        self._ext, self._meta = template.ext, template.meta
