// A headless browser for the tests, driven by JSON lines; internal/testbrowser is the other end.
// E2EE_PROXY_CHROMIUM names the browser. Each page has cookies of its own, told apart by the field
// "page".

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import puppeteer from "puppeteer-core";
import { serve } from "../peer/stdio.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await puppeteer.launch({
    executablePath: process.env.E2EE_PROXY_CHROMIUM,
    pipe: true, // whose end ends the browser, however this process ends
    // The tests run as root in containers, where the sandbox cannot; the pages are our own.
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--force-color-profile=srgb", "--hide-scrollbars"],
});
const pages = new Map();

const commands = {
    // look sets how the page is looked at.
    async look({ page }, { width, height, dark, script, language }) {
        if (width) await page.setViewport({ width, height: height ?? 900 });
        if (dark !== undefined) await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }]);
        if (script !== undefined) await page.setJavaScriptEnabled(script);
        if (language) await page.setExtraHTTPHeaders({ "Accept-Language": language });
    },
    async goto({ page }, { url }) {
        const answer = await page.goto(url, { waitUntil: "load" });
        return answer?.status() ?? 0;
    },
    async fill({ page }, { selector, text }) {
        await page.$eval(selector, (e) => { e.value = ""; });
        await page.type(selector, text);
    },
    async choose({ page }, { selector, value }) {
        await page.select(selector, value);
    },
    async upload({ page }, { selector, file }) {
        const input = await page.$(selector);
        await input.uploadFile(file);
    },
    // press presses the button, link or box that a person finds by its words, and waits for the
    // page that follows if one does.
    async press({ page }, { words, follows }) {
        // In one step, as the page may be shown anew between two.
        const press = () => page.evaluate((words) => {
            const said = (e) => (e.labels?.[0]?.textContent || e.textContent || e.value || "").replace(/\s+/g, " ").trim();
            const all = [...document.querySelectorAll("button, a, summary, input[type=checkbox]")].filter((e) => e.checkVisibility());
            const found = all.find((e) => said(e) === words) ?? all.find((e) => said(e).includes(words));
            found?.click();
            return !!found;
        }, words);
        const pressed = async () => {
            if (!(await press())) throw new Error(`there is nothing to press with “${words}”`);
        };
        if (!follows) return pressed();
        await Promise.all([page.waitForNavigation({ waitUntil: "load" }), pressed()]);
    },
    async key({ page }, { key, follows }) {
        if (!follows) return void (await page.keyboard.press(key));
        await Promise.all([page.waitForNavigation({ waitUntil: "load" }), page.keyboard.press(key)]);
    },
    // focused says which element has the keyboard, and whether that can be seen.
    async focused({ page }) {
        return page.evaluate(() => {
            const e = document.activeElement;
            const style = getComputedStyle(e);
            return {
                tag: e.tagName.toLowerCase(), id: e.id, type: e.type ?? "",
                words: (e.labels?.[0]?.textContent || e.textContent || "").replace(/\s+/g, " ").trim().slice(0, 80),
                visible: e.matches(":focus-visible") && style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0,
            };
        });
    },
    async text({ page }) {
        return page.evaluate(() => document.body.innerText);
    },
    async url({ page }) {
        return page.url();
    },
    async awaitText({ page }, { text, timeout }) {
        await page.waitForFunction((text) => document.body?.innerText.includes(text), { timeout }, text);
    },
    async shot({ page }, { file }) {
        // Pictures of the page come after its text.
        await page.waitForFunction(() => [...document.images].every((image) => image.complete && image.naturalWidth > 0));
        await page.screenshot({ path: file, fullPage: true });
    },
    // faults returns what axe-core finds, in the words of its rules.
    async faults({ page }) {
        await page.evaluate(axe);
        return page.evaluate(async () => {
            const found = await globalThis.axe.run(document, { resultTypes: ["violations"] });
            return found.violations.map((v) => `${v.id} (${v.impact}): ${v.help}: ${v.nodes.map((n) => n.html).join(" | ").slice(0, 600)}`);
        });
    },
    // overflow returns how many pixels the page is wider than the window.
    async overflow({ page }) {
        return page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    },
    // count returns how many elements there are.
    async count({ page }, { selector }) {
        return page.$$eval(selector, (all) => all.length);
    },
    async cookies({ page }) {
        return page.browserContext().cookies();
    },
    // inPage runs an expression as a script of the page would.
    async inPage({ page }, { script }) {
        return page.evaluate(script);
    },
    // complaints returns what the browser has complained about, such as what the policy refused.
    async complaints(p) {
        return p.complaints;
    },
};

serve(async ({ page: name, cmd, timeout, ...args }) => {
    if (!pages.has(name)) {
        const context = await browser.createBrowserContext();
        const page = await context.newPage();
        const p = { page, complaints: [] };
        page.on("console", (m) => {
            if (["error", "warn", "warning"].includes(m.type())) p.complaints.push(m.text());
        });
        page.on("pageerror", (e) => p.complaints.push(String(e)));
        pages.set(name, p);
    }
    const run = commands[cmd];
    if (!run) throw new Error(`no command ${cmd}`);
    return run(pages.get(name), { timeout, ...args });
});
process.on("exit", () => browser.process()?.kill("SIGKILL"));
