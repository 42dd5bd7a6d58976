"""A skill for opsdroid: it writes what it hears, and says, sends and reads what is posted to it.

Pictures that it is sent it puts into files.
"""

import os
from pathlib import Path

import nio
import nio.crypto
from opsdroid.events import Image, Message
from opsdroid.matchers import match_event, match_regex, match_webhook
from opsdroid.skill import Skill


class Talk(Skill):
    @match_regex(r".*")
    async def hear(self, message):
        print("heard", message.text, flush=True)

    @match_event(Image)
    async def see(self, picture):
        Path(picture.name).write_bytes(await picture.get_file_bytes())
        print("opened", picture.name, flush=True)

    @match_webhook("say")
    async def say(self, request):
        if nio.crypto.ENCRYPTION_ENABLED:
            raise RuntimeError("matrix-nio has olm")
        message = Message((await request.json())["text"], target=os.environ["ROOM"])
        await self.opsdroid.get_connector("matrix").send(message)

    @match_webhook("send")
    async def send(self, request):
        file = Path((await request.json())["file"])
        picture = Image(file_bytes=file.read_bytes(), name=file.name, target=os.environ["ROOM"])
        await self.opsdroid.get_connector("matrix").send(picture)

    @match_webhook("older")
    async def older(self, request):
        client = self.opsdroid.get_connector("matrix").connection
        page = await client.room_messages(os.environ["ROOM"], direction=nio.MessageDirection.back, limit=50)
        for event in page.chunk:
            print("older", getattr(event, "body", ""), flush=True)
