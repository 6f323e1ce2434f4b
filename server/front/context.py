"""What the parts of one loop share: fields, and no behaviour.

Who needs more than a few of them takes the whole, in its constructor; the rest take what they use.
"""

from __future__ import annotations

import asyncio

from ..keys import KeyStore
from ..settings import Settings
from .admission import Admission
from .audit import Audit
from .body_memory import BodyPool
from .metrics import Metrics
from .principals import Principals
from .reply_budget import ReplyBudget
from .service_calls import ServiceCalls
from .timers import Timers


class Context:
    """One loop's.

    receive_buffer: where small frames of every connection are read. write_budget: bytes asked of a connection at a
    time. boot_id: 16 bytes drawn for this process. audit, keys: None where there are none.
    """

    __slots__ = (
        "admission", "audit", "body_pool", "boot_id", "keys", "loop", "metrics", "principals", "receive_buffer",
        "reply_budget", "service_calls", "settings", "timers", "write_budget",
    )  # fmt: skip

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        timers: Timers,
        metrics: Metrics,
        *,
        admission: Admission,
        audit: Audit | None,
        body_pool: BodyPool,
        boot_id: bytes,
        keys: KeyStore | None,
        principals: Principals,
        receive_buffer: memoryview,
        reply_budget: ReplyBudget,
        service_calls: ServiceCalls,
        write_budget: int,
    ) -> None:
        self.settings = settings
        self.loop = loop
        self.timers = timers
        self.metrics = metrics
        self.admission = admission
        self.audit = audit
        self.body_pool = body_pool
        self.boot_id = boot_id
        self.keys = keys
        self.principals = principals
        self.receive_buffer = receive_buffer
        self.reply_budget = reply_budget
        self.service_calls = service_calls
        self.write_budget = write_budget
