"""What stands behind ``tensorwire decode``: files of packets to TCP streams, streams to frames, frames to text.

The way: `pcap` (file to packets), `packets` (packet to TCP segment), `tcp` (segments to bytes in order), `connections`
(which of them speak tensorwire), `rows` (any file to rows), `fields` (row to named values), `text` (values to a line).
Cutting bytes into frames is ``protocol.capture_splitter``'s. Everything in a file is hostile: what cannot be read
becomes a `CaptureError` or a problem that is shown, and what is held at once is bounded.
"""
