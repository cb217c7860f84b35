"""A visitor of the page without a browser: the calls that the page's own script makes, over
HTTP.
"""

from __future__ import annotations

import json
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

PATIENCE = 600.0  # seconds for one answer
FULL = "queue is full"


class QueueFull(Exception):
    """The page refused politely."""


class Refused(Exception):
    """An error that the page shows, in its words."""


class Gone(Exception):
    """The tab was closed."""


@dataclass
class Answer:
    data: list[Any]  # of the last call of a chain, as the page gets it
    messages: list[str] = field(default_factory=list)  # warnings and notes, in order
    raw: str = ""  # everything that came over the wire


class Visitor:
    """One tab: it has a session of its own, and the page knows that it is there until `leave`."""

    def __init__(self, address: str):
        self.session = uuid.uuid4().hex[:12]
        self.address = address.rstrip("/")
        self.http = httpx.Client(base_url=f"{self.address}/gradio_api", timeout=PATIENCE)
        config = httpx.get(f"{self.address}/config", timeout=PATIENCE).json()
        self.parts = {part["id"]: part for part in config["components"]}
        self.ids = {
            part["props"]["elem_id"]: part["id"]
            for part in config["components"]
            if part["props"].get("elem_id")
        }
        self.calls = config["dependencies"]
        self._present = threading.Event()
        self._heart: httpx.Response | None = None
        self._stream: httpx.Response | None = None  # of the call that is under way
        self._left = False
        threading.Thread(target=self._stay, daemon=True).start()
        self._present.wait(PATIENCE)
        for call in self.calls:
            if any(event == "load" for _, event in call["targets"]):
                self._run(call, {}, None, Answer([]))

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        """Send a file; what comes back names it in `call`. Raises Refused."""
        said = self.http.post("/upload", files={"files": (name, data, "application/octet-stream")})
        if said.status_code != 200:
            raise Refused(said.text)
        return {
            "path": said.json()[0],
            "orig_name": name,
            "size": len(data),
            "meta": {"_type": "gradio.FileData"},
        }

    def call(
        self,
        part: str,
        event: str,
        values: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> Answer:
        """What an event of a part (by elem_id) does, and all that follows it. `values` of parts,
        others have their first ones; `data` of the event. Raises QueueFull and Refused."""
        first = next(
            call
            for call in self.calls
            if (self.ids[part], event) in map(tuple, call["targets"]) and call["backend_fn"]
        )
        answer, waiting = Answer([]), [first]
        while waiting:
            call = waiting.pop(0)
            self._run(call, values or {}, data, answer)
            waiting += [
                then
                for then in self.calls
                if then["trigger_after"] == call["id"] and then["backend_fn"]
            ]
        return answer

    def ask(self, part: str, function: str, values: Mapping[str, Any]) -> Any:
        """What a part's script asks the server for, past the events. Raises Refused."""
        body = {
            "session_hash": self.session,
            "component_id": self.ids[part],
            "fn_name": function,
            "data": values,
        }
        said = self.http.post("/component_server", json=body)
        if said.status_code != 200:
            raise Refused(said.text)
        return said.json()

    def named(self, endpoint: str, values: Sequence[Any]) -> Answer:
        """An endpoint for programs, to its last value."""
        answer = Answer([])
        self._queued(
            next(call for call in self.calls if call["api_name"] == endpoint),
            list(values),
            None,
            answer,
        )
        return answer

    def leave(self) -> None:
        """Close the tab, whatever is under way; another thread that waits for an answer gets an
        error.
        """
        self._left = True
        for stream in (self._heart, self._stream):
            if stream is not None:
                hang_up(stream)

    # ---- the wire

    def _stay(self) -> None:
        try:
            with httpx.stream(
                "GET", f"{self.address}/gradio_api/heartbeat/{self.session}", timeout=None
            ) as self._heart:
                for _ in self._heart.iter_raw():
                    self._present.set()
        except (
            httpx.HTTPError,
            httpx.StreamError,
            OSError,
        ):  # the end of it, by `leave` or with the server
            self._present.set()

    def _check(self) -> None:
        if self._left:
            raise Gone("this tab was closed")

    def _run(
        self, call: dict, values: Mapping[str, Any], data: Mapping[str, Any] | None, answer: Answer
    ) -> None:
        self._check()
        names = {id: name for name, id in self.ids.items()}
        inputs = [
            values.get(names.get(id), self.parts[id]["props"].get("value")) for id in call["inputs"]
        ]
        inputs = [
            None if self.parts[id]["type"] == "state" else value
            for id, value in zip(call["inputs"], inputs, strict=True)
        ]
        (self._queued if call["queue"] else self._direct)(call, inputs, data, answer)

    def _body(
        self, call: dict, inputs: list[Any], data: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        trigger = next((id for id, _ in call["targets"] if id is not None), None)
        return {
            "fn_index": call["id"],
            "data": inputs,
            "session_hash": self.session,
            "event_data": data,
            "trigger_id": trigger,
        }

    def _direct(
        self, call: dict, inputs: list[Any], data: Mapping[str, Any] | None, answer: Answer
    ) -> None:
        said = self.http.post("/run/predict", json=self._body(call, inputs, data))
        answer.raw += said.text
        if said.status_code != 200:
            raise Refused(said.text)
        answer.data = said.json()["data"]

    def _queued(
        self, call: dict, inputs: list[Any], data: Mapping[str, Any] | None, answer: Answer
    ) -> None:
        joined = self.http.post("/queue/join", json=self._body(call, inputs, data))
        if joined.status_code != 200:
            raise QueueFull(joined.text) if FULL in joined.text.lower() else Refused(joined.text)
        for message in self._messages(answer):
            if message["msg"] == "log":
                answer.messages.append(message["log"])
            elif message["msg"] == "unexpected_error":
                raise Refused(message["message"])
            elif message["msg"] == "process_completed":
                if not message["success"]:
                    raise Refused(str(message["output"].get("error")))
                answer.data = message["output"].get("data", [])
                return

    def _messages(self, answer: Answer) -> Iterator[dict[str, Any]]:
        with self.http.stream(
            "GET", "/queue/data", params={"session_hash": self.session}
        ) as self._stream:
            self._check()
            for line in self._stream.iter_lines():
                if line.startswith("data:"):
                    answer.raw += line
                    yield json.loads(line[5:])


def hang_up(stream: httpx.Response) -> None:
    """End a connection that another thread may be reading: closing it here would leave that thread
    waiting.
    """
    try:
        stream.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
    except OSError:  # it had ended
        return


@contextmanager
def visiting(address: str) -> Iterator[Visitor]:
    visitor = Visitor(address)
    try:
        yield visitor
    finally:
        visitor.leave()
