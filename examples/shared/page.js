// What the pages of the examples have in common.

export const $ = (id) => document.getElementById(id);

export function element(tag, className = "", ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

/** Show in `#state` how a stream is connected; an `EventSource` or an `EventStream`. */
export function showStateOf(stream, node = $("state")) {
  let opened = false;
  const show = () => {
    opened ||= stream.readyState === EventSource.OPEN;
    const names = [opened ? "waiting to come back" : "connecting", "connected", "closed"];
    node.textContent = names[stream.readyState];
    node.classList.toggle("open", stream.readyState === EventSource.OPEN);
  };
  for (const type of ["open", "error", "end"]) stream.addEventListener(type, show);
  show();
}

export const post = (url, body) => fetch(url, { method: "POST", body: JSON.stringify(body ?? null) });
