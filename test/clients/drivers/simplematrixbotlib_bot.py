"""A bot by simplematrixbotlib without olm: it writes what it hears, and does what its input says.

"say TEXT" says it, "send FILE" sends a picture, "older" reads the room's history; pictures
that it is sent it puts into files.
"""

import asyncio
import os
import sys

import nio
import nio.crypto
import simplematrixbotlib

if nio.crypto.ENCRYPTION_ENABLED:
    sys.exit("matrix-nio has olm")

room = os.environ["ROOM"]
creds = simplematrixbotlib.Creds(os.environ["URL"], os.environ["ID"], os.environ["PASSWORD"])
bot = simplematrixbotlib.Bot(creds)


@bot.listener.on_message_event
async def hear(_room, message):
    if message.sender != os.environ["ID"]:
        print("heard", message.body)


@bot.listener.on_custom_event(nio.RoomMessageNotice)
async def notice(_room, message):
    print("heard", message.body)


@bot.listener.on_custom_event(nio.RoomMessageImage)
async def see(_room, message):
    if message.sender == os.environ["ID"]:
        return
    picture = await bot.async_client.download(message.url)
    with open(message.body, "wb") as file:
        file.write(picture.body)
    print("opened", message.body)


async def older():
    page = await bot.async_client.room_messages(room, direction=nio.MessageDirection.back, limit=50)
    for event in page.chunk:
        print("older", getattr(event, "body", ""))


async def speak():
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        what, _, arg = line.decode().rstrip("\n").partition(" ")
        if what == "say":
            await bot.api.send_text_message(room, arg)
        elif what == "older":
            await older()
        else:
            await bot.api.send_image_message(room, arg)


async def main():
    speaking = asyncio.create_task(speak())
    running = asyncio.create_task(bot.main())
    while bot.callbacks is None and not running.done():
        await asyncio.sleep(0.01)
    print("ready")
    await asyncio.gather(speaking, running)


asyncio.run(main())
