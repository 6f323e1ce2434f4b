"""The blocking client: :func:`connect`, :class:`Client`, :class:`Pending`.

Any number of threads may use one client, which has none of its own. A client must not be used across a fork. A signal
handler, a finalizer or an input's own code may close it and cancel its calls anywhere; a call that it makes works, or
is refused at once (:class:`ClientInUse`) where it would wait for the one under way in its own thread.

Here: the verbs. Not here: threads and waiting (``blocking_driver``), sockets (``blocking_wire``), rules (``core``).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from .arguments import check_inputs, of_call, seconds, text
from .blocking_driver import Driver
from .calls import CONNECT, PING, Call, ReplyQueue
from .capture import open_capture
from .core import CONNECT_TIMEOUT, MAX_REPLY, ClientCore
from .errors import ForkedClient
from .keys import KeySource
from .leader_follower import wake
from .options import DEFAULTS, ClientOptions
from .results import Result
from .url import Address, parse_url

if TYPE_CHECKING:
    from pathlib import Path

    from ..codec import Description, HealthReport, ModelList


def connect(
    url: str | None = None,
    *,
    key: KeySource | None = None,
    mac: str | Sequence[str] | None = None,
    tls_ca: str | Path | None = None,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    wait_for_ready: bool = False,
    timeout: float = CONNECT_TIMEOUT,
    max_reply: int = MAX_REPLY,
    capture: str | Path | None = None,
    spin: float | None = None,
) -> Client:
    """Connect to ``tw://host:port``, ``tws://host:port`` or ``tw+unix:///path`` and give back a :class:`Client`.

    ``url``: by default what TENSORWIRE_URL holds, else ``tw://127.0.0.1:7411``.
    ``key``: the caller's key, ``ID:SECRET``, as text, as the ``pathlib.Path`` of a file with it (mode 0600), or as a
    function that returns it; file and function are asked at every connection, so a key is changed without a restart.
    By default the environment has it, TENSORWIRE_KEY or else the file TENSORWIRE_KEY_FILE; "" is no key. Where there
    are several, one per line, ``tw://KEYID@host`` says which. Without a key only this machine is connected to, unless
    by TLS.
    ``mac``: how frames are signed, most wanted first; by default aes-256-gmac where the package cryptography is
    installed (extra ``fast``), else hmac-sha256; "none", which a server must allow too, only on this machine or by TLS.
    ``tls_ca``: for ``tws://``, the PEM file of the CAs that the server's certificate may come from; by default what
    TENSORWIRE_TLS_CA names, else the system's. ``tls_cert``, ``tls_key``: PEM files of the client's own certificate and
    key, for servers that want one; by default what TENSORWIRE_TLS_CLIENT_CERT and TENSORWIRE_TLS_CLIENT_KEY name.
    ``timeout``: seconds for the connection and the handshake. ``wait_for_ready``: a server that is not there yet is
    tried again until ``timeout``, and later calls wait for a lost server until their deadline instead of failing at
    once. ``max_reply``: bytes of the largest reply that is taken. ``capture``: a file that records every byte, for
    ``tensorwire decode``. ``spin``: seconds to keep asking for a reply before sleeping until it comes, since waking up
    takes tens of microseconds. By default the client asks for at most 0.2 ms and only while replies do come that fast;
    0 never asks; more is for callers who buy latency with a core. Raises :class:`InvalidURL`, :class:`InvalidKey`,
    :class:`InvalidInput`, :class:`ConnectFailed`, and its :class:`AuthenticationError` where the two sides do not share
    a key, or the server's certificate is not trusted.
    """
    options = ClientOptions(
        key=key,
        mac=mac,
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        wait_for_ready=wait_for_ready,
        timeout=timeout,
        max_reply=max_reply,
        capture=capture,
        spin=spin,
    )
    client = Client(parse_url(url), options)
    try:
        client.wait_connected(timeout)
    except BaseException:
        client.close()
        raise
    return client


class Pending:
    """A call under way: what :meth:`Client.submit` gives back."""

    __slots__ = ("_call", "_driver")

    def __init__(self, call: Call, driver: Driver) -> None:
        self._call = call
        self._driver = driver

    def done(self) -> bool:
        """Return whether the outcome is known. It becomes known only while some thread waits on the client."""
        return self._call.finished

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the result, at most ``timeout`` seconds; after that ``TimeoutError``, and the call goes on.

        Raises what the call failed with. May be asked again, and from any thread.
        """
        call = self._call
        if not call.finished:
            self._driver.wait(call, None if timeout is None else seconds("timeout", timeout))
            if not call.finished:
                raise TimeoutError(f"no result within {timeout} s; the call goes on")
        return _outcome(call)

    def cancel(self) -> bool:
        """Give the call up and tell the server. False where it was done already."""
        return self._driver.cancel(self._call)


class Client:
    """A connection to one server, made again when it is lost. Made by :func:`connect`; a context manager."""

    def __init__(self, address: Address, options: ClientOptions = DEFAULTS) -> None:
        credentials, trust = options.credentials(address), options.trust(address)
        core = ClientCore(
            wake,
            address=str(address),
            credentials=credentials,
            wait_for_ready=options.wait_for_ready,
            max_reply=options.max_reply,
            capture=open_capture(options.capture),
        )
        self._driver = Driver(core, address, options.timeout, options.spin, trust)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: str | None = "",
        deadline: float | None = None,
        timing: bool = False,
        priority: int = 0,
    ) -> Result:
        """Run ``model`` on ``inputs`` and wait for the result: output name -> read-only array.

        ``inputs``: name -> numpy array, anything with DLPack or the buffer protocol, nested lists, str,
        ``RaggedArray``. ``version``: "" for the one the server serves. ``deadline``: seconds from now for all of it,
        queueing included. ``timing``: ask where the time went. ``priority``: 0 is ordinary, up to 255, larger is more
        urgent. Raises :class:`TensorwireError`: see ``errors``.
        """
        if not (deadline is None or type(deadline) is float) or timing is not False or type(priority) is not int:
            deadline, timing, priority = of_call(deadline, timing, priority)
        if type(model) is not str or type(version) is not str:
            model, version = text("model", model), text("version", version)
        try:
            return self._driver.run(model, inputs, version, deadline, timing, priority)
        except (TypeError, AttributeError):
            check_inputs(inputs)
            raise

    def submit(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: str | None = "",
        deadline: float | None = None,
        timing: bool = False,
        priority: int = 0,
    ) -> Pending:
        """Send a call and come back at once; arguments as for :meth:`infer`. Many may be under way.

        The arrays must not be changed until the call is done. Nothing is read until some thread waits on the client.
        """
        deadline, timing, priority = of_call(deadline, timing, priority)
        model, version = text("model", model), text("version", version)
        try:
            call = self._driver.infer(model, inputs, version, deadline, timing, priority, wait=False)
        except (TypeError, AttributeError):
            check_inputs(inputs)
            raise
        return Pending(call, self._driver)

    def ping(self, *, deadline: float | None = None) -> float:
        """Seconds to the server and back, without a model."""
        call = self._driver.control(PING, None if deadline is None else seconds("deadline", deadline))
        _check(call)
        return call.finished_at - call.opened_at

    def models(self, *, deadline: float | None = None) -> ModelList:
        """Return what the server serves."""
        from . import services

        return services.read_models(self.infer(services.MODELS, services.ask_models(), deadline=deadline))

    def describe(self, model: str, *, version: str | None = "", deadline: float | None = None) -> Description:
        """Return inputs, outputs and limits of a model."""
        from . import services

        question = services.ask_describe(text("model", model), text("version", version))
        return services.read_description(self.infer(services.DESCRIBE, question, deadline=deadline))

    def health(self, model: str = "", *, deadline: float | None = None) -> HealthReport:
        """How a model is, or the server as a whole (""): with forward progress, not just that the process lives."""
        from . import services

        question = services.ask_health(text("model", model), watch=False)
        return services.read_health(self.infer(services.HEALTH, question, deadline=deadline))

    def watch_health(self, model: str = "") -> Generator[HealthReport, None, None]:
        """Yield the health now and whenever it changes; ends when the generator is closed."""
        from . import services

        driver, question = self._driver, services.ask_health(text("model", model), watch=True)
        replies = ReplyQueue()
        call = driver.infer(services.HEALTH, question, "", None, timing=False, priority=0, replies=replies, wait=False)
        try:
            while True:
                reply = replies.take(call)
                if reply is not None:
                    yield services.read_health(reply)
                elif call.finished:
                    return
                else:
                    driver.wait(call, None)
        finally:
            with suppress(ForkedClient):  # what a child does not go on with is not its to end
                driver.cancel(call)

    def wait_connected(self, timeout: float) -> None:
        """Wait until the handshake is done. Raises :class:`ConnectFailed`."""
        _check(self._driver.control(CONNECT, seconds("timeout", timeout)))

    def close(self) -> None:
        """Say goodbye and close the connection; calls under way fail with :class:`ClientClosed`. May be repeated."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check(call: Call) -> None:
    """Raise what a call that is done failed with."""
    if call.error is not None:
        raise call.error


def _outcome(call: Call) -> Result:
    """Return what a call that is done gives back, or raises."""
    _check(call)
    return cast("Result", call.outcome)
