// Everything works without this. It shows a page again when the proxy says that something on it
// has changed, and offers to print.
(() => {
  "use strict";
  for (const button of document.querySelectorAll("[data-print]")) {
    button.hidden = false;
    button.addEventListener("click", () => window.print());
  }
  const main = document.querySelector("main[data-live]");
  if (!main || !window.EventSource) return;

  let busy = false, again = false;
  // What a person is typing stays.
  const typing = () => [...main.querySelectorAll("input:not([type=hidden]), textarea")].some((i) => i.value !== i.defaultValue || i.checked !== i.defaultChecked || i === document.activeElement);
  const look = async () => {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.pathname, { credentials: "same-origin", redirect: "manual", cache: "no-store" });
      if (answer.type === "opaqueredirect") { location.reload(); return; }
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = next.querySelector("main");
      if (fresh && !typing() && fresh.innerHTML !== main.innerHTML) {
        const open = [...main.querySelectorAll("details")].map((d) => d.open);
        const focused = main.contains(document.activeElement);
        main.replaceChildren(...fresh.childNodes);
        main.querySelectorAll("details").forEach((d, i) => { if (open[i]) d.open = true; });
        document.title = next.title;
        if (focused) main.focus();
        if (!fresh.dataset.live) source.close();
      }
    } catch { /* it is looked again with the next change */ } finally {
      busy = false;
      if (again) { again = false; look(); }
    }
  };
  const source = new EventSource(main.dataset.live);
  source.addEventListener("change", look);
  // What changed between the page and this, or while there was no connection.
  source.addEventListener("open", look);
})();
