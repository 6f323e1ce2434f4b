"""What is compared, each in a small file: a server, how one call is made, what it cannot do and why.

A peer's module has ``WORKS`` (keys or letters it does), ``CANNOT`` (key or letter -> reason), ``serve()`` and some of
the callers that `bench.measure` names. ``SERVER`` names the peer whose server it shares, ``PATH`` where tensorwire is
imported from, ``VARIANT`` that it only varies another peer and is silent where it does not.
"""

#: module -> name in tables, in the order of the tables
PEERS = {
    "raw_echo": "raw uvloop echo, one write per call",
    "raw_echo_wide": "raw uvloop echo, buffer of 256 KiB",
    "raw_echo_batched": "raw uvloop echo, writes of a turn batched",
    "raw_echo_spin": "raw uvloop echo, client spins",
    "epoll_echo": "C epoll echo",
    "blocking_sockets": "blocking Python sockets",
    "ours": "tensorwire",
    "ours_sleeps": "tensorwire, both ends sleep",
    "ours_spin": "tensorwire, client spins",
    "ours_asyncio": "tensorwire, asyncio client",
    "ours_pipelined": "tensorwire, blocking client",
    "ours_unix": "tensorwire, Unix socket",
    "ours_process": "tensorwire, process engine",
    "ours_pure": "tensorwire, pure Python",
    "ours_hmac": "tensorwire, HMAC-SHA256",
    "ours_gmac": "tensorwire, AES-256-GMAC",
    "ours_pure_hmac": "tensorwire, pure Python, HMAC-SHA256",
    "in_process": "in-process ceiling",
    "grpc_aio": "grpc.aio",
    "grpc_sync": "gRPC sync",
    "zmq_router": "pyzmq DEALER/ROUTER",
    "arrow_flight": "Arrow Flight, open stream",
    "fastapi_raw": "FastAPI, raw body",
    "mosec_server": "Mosec",
    "litserve_server": "LitServe",
}

#: letters that not every peer is asked to do -> which do, and why
NOT_FOR_ALL = {
    "I": "A rule of ours: what a flood of calls does to the time another model takes.",
    "O": "An open loop in steps, for tensorwire, the raw echo and grpc.aio, until a peer no longer keeps up.",
    "S": "One echo in flight, for tensorwire, the raw echo, grpc.aio (limits raised), pyzmq and Arrow Flight.",
}
