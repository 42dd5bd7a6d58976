// A Matrix client that knows nothing of encryption: requests with fetch, and nothing else. It
// is for trying the proxy out, and says what such a client needs at least. It must never
// show text as HTML, or keep the access token anywhere but in memory.

export class MatrixError extends Error {
  constructor(status, body) {
    super(body.error ?? `the server answered with status ${status}`);
    this.status = status;
    this.code = body.errcode;
  }
}

export class Client {
  constructor(url) {
    this.url = url.replace(/\/+$/, "");
    this.token = null;
    this.userId = null;
    this.since = null;
    this.rooms = new Map(); // room ID → { name, membership, encrypted, messages }
    this.sent = 0;
  }

  async call(method, path, body, signal) {
    const headers = {};
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const response = await fetch(`${this.url}/_matrix/client/v3${path}`, {
      method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
    });
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new MatrixError(response.status, answer);
    return answer;
  }

  async login(user, password) {
    const answer = await this.call("POST", "/login", {
      type: "m.login.password", identifier: { type: "m.id.user", user }, password,
      initial_device_display_name: "plain web client",
    });
    this.token = answer.access_token;
    this.userId = answer.user_id;
  }

  // A room for two that is encrypted from its beginning: by the proxy, not by this client.
  async invite(userId) {
    const answer = await this.call("POST", "/createRoom", {
      preset: "trusted_private_chat", is_direct: true, invite: [userId], name: `${this.userId} and ${userId}`,
      initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
    });
    return answer.room_id;
  }

  join(room) {
    return this.call("POST", `/join/${encodeURIComponent(room)}`, {});
  }

  send(room, text) {
    const transaction = `${Date.now()}.${this.sent++}`;
    return this.call("PUT", `/rooms/${encodeURIComponent(room)}/send/m.room.message/${transaction}`, { msgtype: "m.text", body: text });
  }

  // Waits up to timeout milliseconds for something new, and takes it into rooms.
  async sync(timeout, signal) {
    const query = new URLSearchParams({ timeout: String(timeout) });
    if (this.since) query.set("since", this.since);
    const answer = await this.call("GET", `/sync?${query}`, undefined, signal);
    this.since = answer.next_batch;
    const { join = {}, invite = {}, leave = {} } = answer.rooms ?? {};
    for (const [id, room] of Object.entries(join)) {
      const known = this.room(id, "join");
      for (const event of room.state?.events ?? []) this.take(known, event);
      for (const event of room.timeline?.events ?? []) this.take(known, event);
    }
    for (const [id, room] of Object.entries(invite)) {
      const known = this.room(id, "invite");
      for (const event of room.invite_state?.events ?? []) this.take(known, event);
    }
    for (const id of Object.keys(leave)) this.rooms.delete(id);
  }

  room(id, membership) {
    if (!this.rooms.has(id)) this.rooms.set(id, { name: id, messages: [] });
    const known = this.rooms.get(id);
    known.membership = membership;
    return known;
  }

  take(room, event) {
    if (event.type === "m.room.name") room.name = event.content.name || room.name;
    if (event.type === "m.room.message" && typeof event.content?.body === "string") {
      room.messages.push({ id: event.event_id, sender: event.sender, body: event.content.body });
    }
  }
}
