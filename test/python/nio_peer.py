"""matrix-nio without olm for the tests, driven by JSON lines.

internal/testpeer is the other end; the commands are those of test/peer that a client
without encryption has. One program holds any number of clients, told apart by the
field "client".
"""

import asyncio
import base64
import io
import json
import sys

import nio
import nio.crypto


class Failure(Exception):
    """A command failed; carries a Matrix error when the server gave one."""

    def __init__(self, message, errcode="", http_status=0):
        super().__init__(message)
        self.errcode = errcode
        self.http_status = http_status


def checked(response):
    """Gives the response, or raises the error that nio returns as a value."""
    if isinstance(response, nio.ErrorResponse):
        status = getattr(response.transport_response, "status", 0)
        raise Failure(str(response.message), response.status_code or "", status)
    return response


class RecordingClient(nio.AsyncClient):
    """A client that keeps every response body, for the command "saw"."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.bodies = []

    async def send(self, *args, **kwargs):
        response = await super().send(*args, **kwargs)
        self.bodies.append((await response.read()).decode("utf-8", "replace"))
        return response


class Peer:
    """One logged-in client with its sync loop."""

    def __init__(self):
        self.client = None
        self.syncing = None
        self.timelines = {}
        self.changed = asyncio.Condition()

    async def open(self, url, user="", password="", device="", user_id="", token="", sync=True, **_):
        if nio.crypto.ENCRYPTION_ENABLED:
            raise Failure("matrix-nio could encrypt")
        config = nio.AsyncClientConfig(
            encryption_enabled=False, max_timeouts=1, max_limit_exceeded=0, request_timeout=60
        )
        self.client = RecordingClient(url, user_id or user, device or None, config=config)
        if token:
            self.client.restore_login(user_id, device, token)
        else:
            checked(await self.client.login(password))
        self.client.add_response_callback(self.note, nio.SyncResponse)
        if sync:
            await self.start_sync()
        return {
            "user_id": self.client.user_id,
            "device_id": self.client.device_id,
            "access_token": self.client.access_token,
        }

    async def start_sync(self):
        checked(await self.client.sync(timeout=0, full_state=True))
        self.syncing = asyncio.create_task(self.client.sync_forever(timeout=10000))

    async def stop_sync(self):
        if self.syncing:
            self.syncing.cancel()
            self.syncing = None

    async def note(self, response):
        async with self.changed:
            for room, joined in response.rooms.join.items():
                timeline = self.timelines.setdefault(room, {})
                for event in joined.timeline.events:
                    timeline[event.event_id] = event.source
            self.changed.notify_all()

    def timeline(self, room):
        events = self.timelines.get(room, {}).values()
        redacted = {
            e.get("redacts") or e["content"].get("redacts") for e in events if e["type"] == "m.room.redaction"
        }
        return [describe(e, redacted) for e in events]

    async def until(self, look, timeout, missing):
        """Waits for look to give something true, for at most timeout milliseconds."""

        async def wait():
            async with self.changed:
                while not (found := look()):
                    await self.changed.wait()
                return found

        try:
            return await asyncio.wait_for(wait(), timeout / 1000)
        except asyncio.TimeoutError:
            raise Failure(f"not seen after {timeout} ms: {missing()}") from None

    def membership(self, room, user=None):
        if room in self.client.invited_rooms:
            return "invite"
        known = self.client.rooms.get(room)
        if known is None:
            return "leave"
        user = user or self.client.user_id
        if user in known.invited_users:
            return "invite"
        return "join" if user in known.users else "leave"

    async def send(self, room, kind, content, txn=None):
        response = checked(await self.client.room_send(room, kind, content, tx_id=txn))
        return {"event_id": response.event_id}


def describe(event, redacted):
    content = event["content"]
    unsigned = event.get("unsigned", {})
    return {
        "event_id": event["event_id"],
        "sender": event["sender"],
        "type": event["type"],
        "content": content,
        "body": str(content.get("body", "")),
        "state_key": event.get("state_key"),
        "encrypted": event["type"] == "m.room.encrypted",
        "decrypted": False,
        "failure": "",
        "shield": None,
        "redacted": event["event_id"] in redacted or "redacted_because" in unsigned,
        "edited": "",
        "relates_to": content.get("m.relates_to"),
        "transaction_id": unsigned.get("transaction_id", ""),
        "unsigned": unsigned,
        "wire_type": event["type"],
        "wire_content": content,
    }


def matches(message, where):
    relation = message["relates_to"] or {}
    found = {
        **message,
        "rel_type": relation.get("rel_type"),
        "relates_to": relation.get("event_id") or relation.get("m.in_reply_to", {}).get("event_id"),
        "key": relation.get("key"),
    }
    return all(found.get(name) == want for name, want in where.items())


def text(body):
    return {"msgtype": "m.text", "body": body}


async def create_room(peer, invite=(), name=None, encrypted=False, timeout=0, **_):
    state = []
    if encrypted:
        content = {"algorithm": "m.megolm.v1.aes-sha2"}
        state.append({"type": "m.room.encryption", "state_key": "", "content": content})
    made = checked(
        await peer.client.room_create(
            name=name or None, invite=invite, initial_state=state, preset=nio.RoomPreset.private_chat
        )
    )
    await await_room(peer, made.room_id, timeout=timeout)
    return {"room_id": made.room_id}


async def await_room(peer, room, membership="join", timeout=0, **_):
    await peer.until(
        lambda: peer.membership(room) == membership, timeout, lambda: f"{room} is {peer.membership(room)}"
    )


async def await_member(peer, room, user, membership, timeout):
    await peer.until(
        lambda: peer.membership(room, user) == membership,
        timeout,
        lambda: f"{user} is {peer.membership(room, user)}",
    )


async def join(peer, room, timeout, **_):
    checked(await peer.client.join(room))
    await await_room(peer, room, timeout=timeout)


async def invite(peer, room, user, **_):
    checked(await peer.client.room_invite(room, user))


async def leave(peer, room, **_):
    checked(await peer.client.room_leave(room))


async def redact(peer, room, event, **_):
    checked(await peer.client.room_redact(room, event))


async def await_message(peer, room, where, timeout):
    def look():
        return next((m for m in reversed(peer.timeline(room)) if matches(m, where)), None)

    return await peer.until(look, timeout, lambda: f"{where}; the timeline has {peer.timeline(room)}")


async def relate(peer, room, content, relation):
    return await peer.send(room, "m.room.message", {**content, "m.relates_to": relation})


async def edit(peer, room, event, body, **_):
    content = {**text(f"* {body}"), "m.new_content": text(body)}
    return await relate(peer, room, content, {"rel_type": "m.replace", "event_id": event})


async def react(peer, room, event, key, **_):
    relation = {"rel_type": "m.annotation", "event_id": event, "key": key}
    return await peer.send(room, "m.reaction", {"m.relates_to": relation})


async def saw(peer, text, **_):
    return any(text in body for body in peer.client.bodies)


async def timeline(peer, room, **_):
    return peer.timeline(room)


async def scrollback(peer, room, limit=100, **_):
    page = checked(await peer.client.room_messages(room, start="", limit=limit))
    older = {event.event_id: event.source for event in reversed(page.chunk)}
    peer.timelines[room] = {**older, **peer.timelines.get(room, {})}
    return peer.timeline(room)


async def send_picture(peer, room, name, data, **_):
    data = base64.b64decode(data)
    uploaded, _ = await peer.client.upload(
        io.BytesIO(data), content_type="image/png", filename=name, filesize=len(data)
    )
    content = {"msgtype": "m.image", "body": name, "url": checked(uploaded).content_uri}
    return await peer.send(room, "m.room.message", {**content, "info": {"mimetype": "image/png", "size": len(data)}})


async def download(peer, url, **_):
    return base64.b64encode(checked(await peer.client.download(url)).body).decode()


async def mark_read(peer, room, event, **_):
    checked(await peer.client.room_read_markers(room, event, event))


async def typing(peer, room, **_):
    checked(await peer.client.room_typing(room, True))


async def members(peer, room, **_):
    return sorted(peer.client.rooms[room].users)


COMMANDS = {
    "startSync": lambda peer, **_: peer.start_sync(),
    "stopSync": lambda peer, **_: peer.stop_sync(),
    "saw": saw,
    "createRoom": create_room,
    "awaitRoom": await_room,
    "awaitMember": await_member,
    "join": join,
    "invite": invite,
    "leave": leave,
    "redact": redact,
    "send": lambda peer, room, type, content, txn=None, **_: peer.send(room, type, content, txn),
    "sendText": lambda peer, room, body, txn=None, **_: peer.send(room, "m.room.message", text(body), txn),
    "reply": lambda peer, room, event, body, **_: relate(
        peer, room, text(body), {"m.in_reply_to": {"event_id": event}}
    ),
    "edit": edit,
    "react": react,
    "timeline": timeline,
    "scrollback": scrollback,
    "sendPicture": send_picture,
    "download": download,
    "awaitMessage": await_message,
    "markRead": mark_read,
    "typing": typing,
    "members": members,
}

PEERS = {}


async def handle(client, cmd, **args):
    if cmd == "open":
        PEERS[client] = Peer()
        return await PEERS[client].open(**args)
    if client not in PEERS:
        raise Failure(f"no client {client}")
    if cmd not in COMMANDS:
        raise Failure(f"no command {cmd}")
    return await COMMANDS[cmd](PEERS[client], **args)


async def answer(line):
    request = json.loads(line)
    number = request.pop("id")
    try:
        message = {"id": number, "result": await handle(**request)}
    except Exception as e:  # every failure is the test's to judge
        error = {
            "message": str(e) or type(e).__name__,
            "name": type(e).__name__,
            "errcode": getattr(e, "errcode", ""),
            "http_status": getattr(e, "http_status", 0),
        }
        message = {"id": number, "error": error}
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def main():
    reader = asyncio.StreamReader(limit=1 << 26)
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    running = set()
    while line := await reader.readline():
        task = asyncio.create_task(answer(line))
        running.add(task)
        task.add_done_callback(running.discard)
    # The end of the input is the end of the test: nothing is waited for.
    for task in running:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
