// What both pages share: elements, the state in the address, levels, legends and keys.

export const about = await (await fetch("/about.json")).json();
document.title = about.name;

// An element with properties and children.
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "style" || key === "dataset") Object.assign(made[key], value);
    else if (key.startsWith("aria")) made.setAttribute(key.replace("aria", "aria-").toLowerCase(), value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

export const $ = (selector) => document.querySelector(selector);

// The state of a page, kept in its address, so that a view can be reloaded and passed on.
export function remembered(defaults) {
  const given = new URLSearchParams(location.hash.slice(1));
  const state = { ...defaults };
  for (const [key, value] of Object.entries(defaults)) {
    if (!given.has(key)) continue;
    const text = given.get(key);
    if (typeof value === "number") state[key] = Number.isFinite(+text) ? +text : value;
    else if (typeof value === "boolean") state[key] = text === "true";
    else state[key] = text;
  }
  return state;
}

export function remember(state, defaults) {
  const changed = Object.entries(state).filter(([key, value]) => value !== defaults[key]);
  const hash = new URLSearchParams(changed).toString();
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname);
}

// Levels as a set in the state: "0,2".
export const levelSet = (text) => new Set(text.split(",").filter((level) => level && about.levels[level]).map(Number));
export const setText = (set) => [...set].sort().join(",");
export const allLevels = setText(new Set(about.levels.keys()));

// Buttons of which one is chosen; `update(value)` shows which.
export function choice(label, options, choose) {
  const buttons = options.map(([value, text, title]) =>
    element("button", { textContent: text, title: title ?? "", onclick: () => choose(value) }));
  const update = (chosen) => buttons.forEach((button, i) =>
    button.setAttribute("aria-pressed", options[i][0] === chosen));
  const node = element("div", { className: "group" }, ...(label ? [element("span", { textContent: label })] : []),
    element("div", { className: "choice", ariaLabel: label }, ...buttons));
  return { node, update };
}

export function toggle(text, title, press) {
  const node = element("button", { textContent: text, title, onclick: press });
  return { node, update: (on) => node.setAttribute("aria-pressed", on) };
}

export function levelChoice(choose) {
  const last = about.levels.length - 1;
  return choice("Level", about.levels.map((level, j) => {
    const place = j === 0 ? ", the finest" : j === last ? ", the coarsest" : "";
    return [j, String(j), `Stop at level ${j}${place}: ${level.size.join(" × ")} (key ${j})`];
  }), choose);
}

// A legend of the blocks: a switch for each level.
export function blockLegend(shown, press) {
  const rows = about.levels.map((level, j) => element("button", {
    className: "level", title: `Show or hide the blocks of level ${j}`, onclick: () => press(j),
    ariaPressed: shown.has(j),
  }, element("i"), `level ${j}`, element("b", { textContent: `${level.active} of ${level.blocks}` })));
  rows.forEach((row, j) => row.style.setProperty("--colour", about.levels[j].colour));
  return element("section", {}, element("h2", { textContent: "Blocks with a network" }), ...rows);
}

export function title() {
  const size = about.size.join(" × ");
  const facts = `${size} ${about.mode} ${about.dtype} · ${(about.params / 1e6).toFixed(2)} M parameters`;
  return element("h1", { textContent: about.name, title: facts });
}

// Keys: {key: [name, what it does, action]}; `?` shows them.
export function keys(actions) {
  const dialog = $("#keys");
  const rows = Object.entries(actions).filter(([, [text]]) => text).flatMap(([key, [text, , shown]]) => [
    element("dt", {}, element("kbd", { textContent: shown ?? key })), element("dd", { textContent: text })]);
  dialog.append(element("h2", { textContent: "Keys" }), element("dl", {}, ...rows));
  dialog.onclick = () => dialog.close();
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "?") return dialog.open ? dialog.close() : dialog.showModal();
    const action = actions[event.key.toLowerCase()];
    if (!action || event.target.type === "range") return;
    event.preventDefault();
    action[1]();
  });
  return element("button", { textContent: "?", title: "Keys (?)", onclick: () => dialog.showModal() });
}

// "loading", "ready" or "failed", for whoever waits for the page.
export function say(state) {
  document.documentElement.dataset.state = state;
}
