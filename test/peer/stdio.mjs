// JSON lines on standard input and output. It is imported first, so that nothing that
// a library prints can get between the answers: all of that goes to standard error.
// E2EE_PROXY_PEER_LOG=1 makes the libraries talkative.

import { createInterface } from "node:readline";
import { format } from "node:util";

// What a new homeserver lacks is no news.
const ignored = /default global (override|underride) push rule/;
const quiet = process.env.E2EE_PROXY_PEER_LOG ? [] : ["log", "info", "debug", "trace"];
for (const name of ["log", "info", "debug", "warn", "error", "trace"]) {
    console[name] = quiet.includes(name)
        ? () => {}
        : (...args) => {
              const line = format(...args);
              if (!ignored.test(line)) process.stderr.write(`${name}: ${line}\n`);
          };
}

function write(message) {
    process.stdout.write(`${JSON.stringify(message)}\n`);
}

// A test goes on when something that nobody awaits fails, as a browser would; the log says so.
process.on("unhandledRejection", (reason) => console.error("unhandled rejection:", reason));

// serve answers {"id", "cmd", …} with {"id", "result"} or {"id", "error"}. Commands run
// at the same time; the end of the input ends the program.
export function serve(handle) {
    const lines = createInterface({ input: process.stdin, crlfDelay: Infinity });
    lines.on("line", async (line) => {
        const { id, ...request } = JSON.parse(line);
        try {
            write({ id, result: (await handle(request)) ?? null });
        } catch (e) {
            write({ id, error: describeError(e) });
        }
    });
    lines.on("close", () => process.exit(0));
}

function describeError(e) {
    return {
        message: String(e?.message ?? e),
        name: e?.name ?? "",
        errcode: e?.errcode ?? "",
        http_status: e?.httpStatus ?? 0,
        data: e?.data ?? null,
    };
}
