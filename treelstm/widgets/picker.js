// A table that sorts, searches and filters, and whose rows are chosen by mouse or keyboard: one (a checkpoint,
// whose place is marked on the curve) or several (runs, each with a note). Python makes every text in it.

function make(tag, parent, properties = {}, attributes = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  parent.append(element);
  return element;
}

const blank = (value) => value === null || value === "";

function compare(a, b) {
  if (blank(a) || blank(b)) return blank(a) - blank(b);
  return a < b ? -1 : a > b ? 1 : 0;
}

// Whether a cell fits what is wanted in its column: a part of its text, or for numbers also > 3, <= 0.5, = 2.
function fits([text, value], wanted) {
  const found = /^(<=|>=|<|>|=)\s*(-?[\d.]+(?:e[-+]?\d+)?)$/i.exec(wanted.trim());
  if (!found || typeof value === "string") return text.toLowerCase().includes(wanted.toLowerCase());
  const order = compare(value, +found[2]);
  return value !== null && found[1].includes(order < 0 ? "<" : order > 0 ? ">" : "=");
}

async function copy(text, button) {
  const area = make("textarea", document.body, { value: text, className: "treelstm-hidden" });
  area.select();
  const done = document.execCommand("copy"); // also where the page is not "secure": http from another machine
  area.remove();
  button.focus();
  button.dataset.done = done ? "copied" : "select the text and copy it";
  setTimeout(() => delete button.dataset.done, 2000);
}

const quoted = (value) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

function render({ model, el }) {
  const most = model.get("most");
  const columns = model.get("columns");
  const rows = new Map(model.get("rows").map((row) => [row.path, row]));
  const lines = new Map();
  const typed = new Map(); // notes that are not saved yet
  const wanted = columns.map(() => "");
  let [by, descending] = model.get("order");
  let current = [model.get("chosen")].flat()[0] ?? rows.keys().next().value;

  el.classList.add("treelstm-picker");
  const main = make("div", el, { className: "treelstm-main" });
  const bar = make("div", main, { className: "treelstm-bar" });
  const search = make("input", bar, { type: "search", placeholder: "search" }, { "aria-label": "search all columns" });
  const copying = make("button", bar, { textContent: "copy as CSV" });
  const count = make("span", bar, {}, { "aria-live": "polite" });
  const frame = make("div", main, { className: "treelstm-rows" });
  const grid = { role: "grid", "aria-label": model.get("label"), "aria-multiselectable": most > 1 };
  const table = make("table", frame, {}, grid);
  const head = make("tr", make("thead", table));
  const body = make("tbody", table);
  make("div", frame, { className: "treelstm-left-out", textContent: model.get("left_out") });
  const side = make("div", el, { className: "treelstm-side" });
  const curve = make("div", side, { className: "treelstm-curve" });
  const details = make("div", side, { className: "treelstm-details" });

  const { svg = "", axes = [] } = model.get("curve");
  curve.innerHTML = svg; // matplotlib wrote it: the words in it are text
  const marks = axes.map(() => make("div", curve, { className: "treelstm-mark" }));

  if (most > 1) make("th", head, { textContent: "compare" }, { scope: "col" });
  const headers = columns.map((label, column) => {
    const cell = make("th", head, {}, { scope: "col" });
    make("button", cell, {
      textContent: label,
      onclick: () => {
        [by, descending] = [column, by === column && !descending];
        sort();
      },
    });
    const filter = make("input", cell, { size: 1, placeholder: "filter" }, { "aria-label": `filter ${label}` });
    filter.title = 'part of the text, or for numbers also "> 3", "<= 0.5"';
    filter.oninput = () => {
      wanted[column] = filter.value;
      sift();
    };
    return cell;
  });
  search.oninput = sift;
  copying.onclick = () => {
    const shown = [...body.children].filter((line) => !line.hidden).map((line) => rows.get(line.dataset.path));
    const values = shown.map(({ cells }) => cells.map(([text, value]) => (Number.isFinite(value) ? `${value}` : text)));
    copy([columns, ...values].map((row) => row.map(quoted).join(",")).join("\n"), copying);
  };

  function sort() {
    const sorted = [...rows.values()].sort((a, b) => {
      const [first, second] = [a.cells[by][1], b.cells[by][1]];
      const turned = descending && !blank(first) && !blank(second); // what is blank is last, both ways
      return (compare(first, second) || compare(a.position, b.position)) * (turned ? -1 : 1);
    });
    const focused = document.activeElement;
    body.append(...sorted.map((row) => lines.get(row.path)));
    if (body.contains(focused)) focused.focus();
    headers.forEach((cell, column) => {
      cell.setAttribute("aria-sort", column === by ? (descending ? "descending" : "ascending") : "none");
    });
  }

  function sift() {
    for (const { path, cells } of rows.values()) {
      const found = cells.some(([text]) => text.toLowerCase().includes(search.value.toLowerCase()));
      lines.get(path).hidden = !found || !cells.every((cell, column) => fits(cell, wanted[column]));
    }
    tell();
  }

  function tell(refused = "") {
    const shown = [...lines.values()].filter((line) => !line.hidden).length;
    const chosen = most > 1 ? `; ${model.get("chosen").length} chosen to be compared` : "";
    count.textContent = refused || `${shown === rows.size ? rows.size : `${shown} of ${rows.size}`} shown${chosen}`;
  }

  function fill(row) {
    const line = lines.get(row.path) ?? make("tr", body, {}, { role: "row", "data-path": row.path });
    lines.set(row.path, line);
    line.replaceChildren();
    if (most > 1) {
      const box = { type: "checkbox", tabIndex: -1, disabled: row.usable === false };
      make("input", make("td", line, {}, { role: "gridcell" }), box, { "aria-label": `compare ${row.name}` });
    }
    for (const [text, value] of row.cells) {
      const words = typeof value === "string" && most > 1 ? "treelstm-words" : "";
      make("td", line, { textContent: text, className: words }, { role: "gridcell" });
    }
    line.title = row.usable === false ? row.status : row.name;
    line.classList.toggle("treelstm-damaged", row.damaged);
    if (most === 1) line.setAttribute("aria-disabled", row.usable === false);
  }

  function choose(path) {
    const row = rows.get(path);
    if (!row || row.usable === false) return;
    const before = model.get("chosen");
    const others = most > 1 ? before.filter((each) => each !== path) : [];
    const added = most === 1 || others.length === before.length;
    if (others.length + added > most) return show(path, `at most ${most} can be compared: leave one out first`);
    model.set("chosen", most === 1 ? path : added ? [...others, path] : others);
    model.save_changes();
    show(path);
  }

  function go(path) {
    if (most === 1) choose(path);
    else show(path);
  }

  function show(path = current, refused = "") {
    const chosen = [model.get("chosen")].flat();
    current = most === 1 ? chosen[0] : path;
    const row = rows.get(current);
    for (const [path, line] of lines) {
      line.setAttribute("aria-selected", chosen.includes(path));
      line.tabIndex = path === row?.path ? 0 : -1;
      line.classList.toggle("treelstm-current", most > 1 && path === row?.path);
      if (most > 1) line.querySelector("input").checked = chosen.includes(path);
    }
    details.replaceChildren();
    marks.forEach((mark) => (mark.hidden = !row));
    tell(refused);
    if (!row) return;
    marks.forEach((mark, number) => {
      const { left, width, top, height, low, high } = axes[number];
      const share = (row.place - low) / (high - low);
      mark.hidden = share < 0 || share > 1;
      mark.style.cssText = `left:${100 * (left + width * share)}%;top:${100 * top}%;height:${100 * height}%`;
    });
    const words = make("div", details, {}, { "aria-live": "polite" });
    make("b", words, { textContent: row.name });
    make("div", words, { textContent: row.usable === false ? row.status : row.settings });
    if (model.get("resuming")) make("div", words, { textContent: aside(row) });
    for (const [label, text] of row.copies ?? []) {
      const button = make("button", details, { textContent: label, onclick: () => copy(text, button) });
      make("pre", details, { textContent: text });
    }
    if (row.note !== undefined) note(row);
  }

  function note(row) {
    const area = make("textarea", details, { rows: 3 }, { "aria-label": `note on ${row.name}` });
    area.value = typed.get(row.path) ?? row.note;
    area.oninput = () => typed.set(row.path, area.value);
    const save = () => model.send({ path: row.path, note: area.value, was: row.note });
    make("button", details, { textContent: "save the note", onclick: save });
    make("div", details, { className: "treelstm-said", textContent: row.said ?? "" }, { "aria-live": "polite" });
  }

  function aside(chosen) {
    const later = [...rows.values()].filter((row) => compare(row.position, chosen.position) > 0);
    if (!later.length) return "It is the newest: resuming from it sets nothing aside.";
    later.sort((a, b) => compare(a.position, b.position));
    const names = later.length > 1 ? `${later[0].name} to ${later.at(-1).name}` : later[0].name;
    const bytes = later.reduce((sum, row) => sum + row.bytes, 0);
    const least = model.get("left_out") ? "at least " : "";
    return (
      `Resuming from it sets aside ${least}${later.length} later checkpoint${later.length > 1 ? "s" : ""} ` +
      `(${names}, ${(bytes / 1e6).toFixed(1)} MB), best_model.pt, final_model.pt and ` +
      `training_history.json in superseded/; nothing is deleted.`
    );
  }

  body.onclick = (event) => {
    const line = event.target.closest("tr");
    const act = event.target.matches("input") ? choose : go;
    act(line.dataset.path);
    line.focus();
  };
  // First of all listeners: JupyterLab's and Notebook's would move between cells, or cut one at an x.
  const keys = (event) => {
    if (!el.contains(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.stopPropagation();
    if (body.contains(event.target)) walk(event);
  };
  window.addEventListener("keydown", keys, true);

  function walk(event) {
    const all = [...body.children].filter((line) => !line.hidden && line.getAttribute("aria-disabled") !== "true");
    const here = all.indexOf(event.target.closest("tr"));
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -all.length, End: all.length };
    if (event.key === " " || event.key === "Enter") {
      event.preventDefault();
      choose(event.target.closest("tr").dataset.path);
    }
    if (!(event.key in steps)) return;
    event.preventDefault();
    const line = all[Math.min(Math.max(here + steps[event.key], 0), all.length - 1)];
    go(line.dataset.path);
    line.focus();
    line.scrollIntoView({ block: "nearest" });
  }

  const update = () => {
    let moved = false; // a number by which the table is sorted is known only now
    for (const row of model.get("rows")) {
      const before = rows.get(row.path);
      if (JSON.stringify(row) === JSON.stringify(before)) continue;
      moved ||= row.cells[by][1] !== before?.cells[by][1] || row.position !== before?.position;
      rows.set(row.path, row);
      fill(row);
      if (row.saved) typed.delete(row.path);
    }
    if (moved) sort();
    show();
  };
  const changed = () => show();
  const left = () => el.classList.add("jupyter-widgets-disconnected"); // by its kernel
  model.on("comm_live_update", left);
  model.on("change:chosen", changed);
  model.on("change:rows", update);
  for (const row of rows.values()) fill(row);
  sort();
  show();
  return () => {
    window.removeEventListener("keydown", keys, true);
    model.off("comm_live_update", left);
    model.off("change:chosen", changed);
    model.off("change:rows", update);
  };
}

export default { render };
