// The table of CheckpointPicker: sorts by click, chooses by mouse or keyboard, marks the choice on the curve.

const BEFORE_METRICS = [["epoch", "epoch"], ["step", "step"]]; // [name, heading]
const AFTER_METRICS = [["bytes", "MB"], ["written", "written"], ["status", "status"]];

const isDamaged = (row) => row.usable === false && row.status !== "replaced";

function valueOf(row, column) {
  return column in row.metrics ? row.metrics[column] : row[column];
}

function text(row, column) {
  const value = valueOf(row, column);
  if (column === "status") return isDamaged(row) ? "damaged" : value || "checking …";
  if (value === null) return "";
  if (column === "epoch") return row.best ? `${value} ★` : `${value}`;
  if (column === "bytes") return (value / 1e6).toFixed(1);
  if (column === "written") return value.replace("T", " ").slice(5, 16);
  return column in row.metrics ? value.toFixed(4) : `${value}`;
}

function make(tag, parent, properties = {}, attributes = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  parent.append(element);
  return element;
}

function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  return a < b ? -1 : a > b ? 1 : 0;
}

function render({ model, el }) {
  const columns = [...BEFORE_METRICS, ...model.get("columns"), ...AFTER_METRICS];
  const rows = new Map(model.get("rows").map((row) => [row.path, row]));
  const lines = new Map();
  let order = { column: "epoch", descending: true };

  el.classList.add("treelstm-picker");
  el.dataset.lmSuppressShortcuts = "true"; // without it, the arrow keys would move between cells
  const frame = make("div", el, { className: "treelstm-rows" });
  const table = make("table", frame, {}, { role: "grid", "aria-label": "checkpoints" });
  const head = make("tr", make("thead", table));
  const body = make("tbody", table);
  make("div", frame, { className: "treelstm-left-out", textContent: model.get("left_out") });
  const side = make("div", el, { className: "treelstm-side" });
  const curve = make("div", side, { className: "treelstm-curve" });
  const details = make("div", side, { className: "treelstm-details" }, { "aria-live": "polite" });

  const { png, axes } = model.get("curve");
  make("img", curve, { src: `data:image/png;base64,${png}`, alt: "loss and quality by epoch" });
  const marks = axes.map(() => make("div", curve, { className: "treelstm-mark" }));

  const headers = columns.map(([column, label]) => {
    const cell = make("th", head, {}, { scope: "col" });
    make("button", cell, {
      textContent: label,
      onclick: () => {
        order = { column, descending: order.column === column && !order.descending };
        sort();
      },
    });
    return [column, cell];
  });

  function sort() {
    const { column, descending } = order;
    const key = (row) => (column === "epoch" ? row.position : valueOf(row, column));
    const sorted = [...rows.values()].sort(
      (a, b) => compare(key(a), key(b)) * (descending ? -1 : 1) || compare(a.position, b.position),
    );
    body.append(...sorted.map((row) => lines.get(row.path)));
    for (const [name, cell] of headers) {
      const here = name === column;
      cell.setAttribute("aria-sort", here ? (descending ? "descending" : "ascending") : "none");
    }
  }

  function fill(row) {
    const line = lines.get(row.path) ?? make("tr", body, {}, { role: "row", "data-path": row.path });
    lines.set(row.path, line);
    line.replaceChildren();
    for (const [column] of columns) {
      make("td", line, { textContent: text(row, column) }, { role: "gridcell" });
    }
    line.title = row.usable === false ? row.status : row.name;
    line.classList.toggle("treelstm-damaged", isDamaged(row));
    line.setAttribute("aria-disabled", row.usable === false);
  }

  function choose(path) {
    const row = rows.get(path);
    if (!row || row.usable === false) return;
    model.set("chosen", path);
    model.save_changes();
  }

  function show() {
    const row = rows.get(model.get("chosen"));
    for (const [path, line] of lines) {
      line.setAttribute("aria-selected", path === row?.path);
      line.tabIndex = path === row?.path ? 0 : -1;
    }
    details.replaceChildren();
    marks.forEach((mark) => (mark.hidden = !row));
    if (!row) return;
    marks.forEach((mark, number) => {
      const { left, width, top, height, low, high } = axes[number];
      const share = (row.place - low) / (high - low);
      mark.hidden = share < 0 || share > 1;
      mark.style.cssText = `left:${100 * (left + width * share)}%;top:${100 * top}%;height:${100 * height}%`;
    });
    make("b", details, { textContent: row.name });
    make("div", details, { textContent: row.usable === false ? row.status : row.settings });
    if (model.get("resuming")) make("div", details, { textContent: aside(row) });
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
    choose(line.dataset.path);
    line.focus();
  };
  body.onkeydown = (event) => {
    const all = [...body.children].filter((line) => line.getAttribute("aria-disabled") !== "true");
    const here = all.indexOf(event.target.closest("tr"));
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -all.length, End: all.length };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const line = all[Math.min(Math.max(here + steps[event.key], 0), all.length - 1)];
    choose(line.dataset.path);
    line.focus();
    line.scrollIntoView({ block: "nearest" });
  };

  const update = () => {
    for (const row of model.get("rows")) {
      if (row.status === rows.get(row.path)?.status) continue;
      rows.set(row.path, row);
      fill(row);
    }
    show();
  };
  model.on("change:chosen", show);
  model.on("change:rows", update);
  for (const row of rows.values()) fill(row);
  sort();
  show();
  return () => {
    model.off("change:chosen", show);
    model.off("change:rows", update);
  };
}

export default { render };
