"""A plugin for maubot: it writes what it hears, and says, sends and reads what is posted to it.

Pictures that it is sent it puts into files.
"""

import importlib.util
import os
from pathlib import Path

from aiohttp.web import Response, json_response
from maubot import MessageEvent, Plugin
from maubot.handlers import event, web
from mautrix.types import EventType, MediaMessageEventContent, MessageType, PaginationDirection

if importlib.util.find_spec("olm"):
    raise RuntimeError("mautrix has olm")

room = os.environ["ROOM"]


class Talk(Plugin):
    @event.on(EventType.ROOM_MESSAGE)
    async def hear(self, message: MessageEvent) -> None:
        if message.sender == self.client.mxid:
            return
        if message.content.msgtype == MessageType.IMAGE:
            picture = await self.client.download_media(message.content.url)
            Path(message.content.body).write_bytes(picture)
            print("opened", message.content.body, flush=True)
        else:
            print("heard", message.content.body, flush=True)

    @web.get("/")
    async def ready(self, _request) -> Response:
        return json_response({})

    @web.post("/say")
    async def say(self, request) -> Response:
        await self.client.send_text(room, (await request.json())["text"])
        return json_response({})

    @web.post("/send")
    async def send(self, request) -> Response:
        file = Path((await request.json())["file"])
        url = await self.client.upload_media(file.read_bytes(), mime_type="image/png", filename=file.name)
        await self.client.send_message(
            room, MediaMessageEventContent(msgtype=MessageType.IMAGE, body=file.name, url=url)
        )
        return json_response({})

    @web.post("/older")
    async def older(self, _request) -> Response:
        page = await self.client.get_messages(room, PaginationDirection.BACKWARD, limit=50)
        for message in page.events:
            if message.type == EventType.ROOM_MESSAGE:
                print("older", message.content.body, flush=True)
        return json_response({})
