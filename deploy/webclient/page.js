import { Client } from "./client.js";

const $ = (id) => document.getElementById(id);
let client = null;
let current = null;

function show(error) {
  $("error").textContent = error ? error.message : "";
}

// Runs what a person asked for, and shows what went wrong.
function on(id, event, action) {
  $(id).addEventListener(event, async (e) => {
    e.preventDefault();
    try {
      await action(e);
      show(null);
    } catch (error) {
      show(error);
    }
  });
}

function draw() {
  const rooms = [...client.rooms].map(([id, room]) => {
    const button = document.createElement("button");
    button.textContent = room.membership === "invite" ? `${room.name} (join)` : room.name;
    button.className = id === current ? "current" : "";
    button.addEventListener("click", async () => {
      try {
        if (room.membership === "invite") await client.join(id);
        current = id;
        draw();
      } catch (error) {
        show(error);
      }
    });
    return button;
  });
  $("rooms").replaceChildren(...rooms);
  const messages = (client.rooms.get(current)?.messages ?? []).map((message) => {
    const line = document.createElement("p");
    const sender = document.createElement("b");
    sender.textContent = `${message.sender} `;
    line.append(sender, message.body);
    return line;
  });
  $("messages").replaceChildren(...messages);
}

async function follow() {
  for (;;) {
    try {
      await client.sync(30000);
      draw();
    } catch (error) {
      show(error);
      await new Promise((resolve) => setTimeout(resolve, 5000));
    }
  }
}

on("login", "submit", async () => {
  const next = new Client($("server").value);
  await next.login($("user").value, $("password").value);
  client = next;
  $("password").value = "";
  $("login").hidden = true;
  $("chat").hidden = false;
  $("me").textContent = client.userId;
  follow();
});

on("invite", "submit", async () => {
  const name = $("other").value;
  current = await client.invite(name.startsWith("@") ? name : `@${name}:${client.userId.split(":").slice(1).join(":")}`);
  $("other").value = "";
});

on("write", "submit", async () => {
  if (current && $("text").value) await client.send(current, $("text").value);
  $("text").value = "";
});
