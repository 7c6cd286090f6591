// A map of trees. Python sends places, numbers and colours; the sentences are those of the choice's model, so
// that they are sent once; a tree's drawing is asked for when somebody looks at it.

const ROWS = 200; // of the table below, at most
const array = (Type, view) => new Type(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
const short = (text) => (text.length > 44 ? `${text.slice(0, 43)}…` : text);

async function render({ model, el }) {
  const choice = await model.widget_manager.get_model(model.get("choice").replace("IPY_MODEL_", ""));
  const names = choice.get("names").split("\n");
  const folded = names.map(fold);
  const [nodes, links] = ["nodes", "links"].map((name) => array(Int32Array, model.get(name)));
  const errors = array(Float32Array, model.get("errors"));
  const texts = new Map(); // drawings of trees
  let codes, found, only, here, from, lasso;
  let fitted = true;

  el.classList.add("treelstm-map");
  el.dataset.lmSuppressShortcuts = "true"; // without it, keys would act on cells
  make("div", el, { textContent: model.get("about") });
  const bar = make("div", el, { className: "treelstm-bar" });
  const control = (text, tag, properties) => {
    const label = make("label", bar, { textContent: `${text} ` });
    return make(tag, label, properties);
  };
  const select = control("colour:", "select");
  for (const [value, text] of model.get("colours")) make("option", select, { value, textContent: text });
  const search = control("search:", "input", { type: "search", placeholder: "words of sentences" });
  const counted = make("span", bar, {}, { "aria-live": "polite" });
  const lines = control("lines between similar ones", "input", { type: "checkbox", onchange: draw });
  const moving = control("drag to move", "input", { type: "checkbox" });
  const zoom = (by, ...at) => {
    fitted = !by; // and stays so when the page becomes wider
    if (by) plane.zoom(by, ...at);
    else plane.fit();
    draw();
  };
  for (const [text, title, by] of [["+", "zoom in", 1.5], ["−", "zoom out", 1 / 1.5], ["all", "show all points", 0]]) {
    make("button", bar, { textContent: text, title, onclick: () => zoom(by) }, { "aria-label": title });
  }
  const main = make("div", el, { className: "treelstm-plane" });
  const keys = "arrow keys go to the next tree that way, Enter chooses it, plus and minus zoom, 0 shows all";
  const says = { role: "application", "aria-label": `map of ${names.length} trees: ${keys}` };
  const canvas = make("canvas", main, { tabIndex: 0 }, says);
  const side = make("div", main, { className: "treelstm-tree" });
  const sentence = make("b", side, {}, { "aria-live": "polite" });
  const facts = make("div", side);
  const drawing = make("pre", side, { tabIndex: 0 }, { "aria-label": "its tree" });
  const legend = make("div", el, { className: "treelstm-bar" });
  const help = "Point at a tree to see it, click to choose it, drag around some to list them. After a click the wheel zooms.";
  make("div", el, { textContent: help });
  const table = make("div", el, { className: "treelstm-inside" });
  const plane = new Plane(canvas, array(Float32Array, model.get("points")));

  const ink = () => getComputedStyle(el).color;
  const dark = () => ink().match(/\d+/g).slice(0, 3).reduce((sum, each) => sum + +each, 0) > 382;
  const color = (name) => getComputedStyle(el).getPropertyValue(`--treelstm-${name}`).trim() || ink();
  const hue = (code) => (model.get("coloured").values[code][2] ? 7 : code); // its place in HUES and MARKS

  let waiting = 0;
  let stale = true; // else the points are drawn, and only what lies over them changes
  function draw() {
    stale = true;
    over();
  }

  function over() {
    waiting ||= requestAnimationFrame(() => {
      waiting = 0;
      if (stale) paint();
      stale = false;
      mark();
    });
  }

  function paint() {
    plane.clear();
    const { values } = model.get("coloured");
    const ramp = model.get("ramps")[dark() ? "dark" : "light"];
    const linked = [...(lines.checked ? links : [])].map((i) => plane.at(i));
    plane.line(linked, { strokeStyle: color("neutral"), globalAlpha: 0.6 }, 2);
    const [faint, bright] = [[2.8, 0.12], found ? [4, 1] : [2.8, 0.8]].map(([radius, alpha]) =>
      values
        ? values.map((_, code) => plane.sprite(hue(code), color(HUES[hue(code)]), radius, alpha))
        : ramp.map((each) => plane.sprite(0, each, radius, alpha)),
    );
    const steps = values ? 1 : (ramp.length - 1) / 255;
    const lit = (i) => (!found || found.has(i)) && (only === undefined || codes[i] === only);
    const later = [];
    for (let i = 0; i < plane.count; i++) lit(i) ? later.push(i) : faint[Math.floor(codes[i] * steps)](plane.at(i));
    for (const i of later) bright[Math.floor(codes[i] * steps)](plane.at(i));
    plane.keep();
  }

  function mark() {
    plane.clear(true);
    const named = model.get("named");
    model.get("selected").forEach((i) => plane.ring(i, 5, ink()));
    named.forEach((i, k) => plane.ring(i, k ? 5 : 8, color("mark")));
    if (here !== undefined) plane.ring(here, 6, ink());
    if (lasso) plane.line([...lasso, lasso[0]], { strokeStyle: color("mark"), lineWidth: 2 });
    const words = named.map((i, k) => (k ? `${k}: ` : "") + short(names[i]));
    plane.name(named, words, ink(), dark() ? "#111" : "#fff", color("mark"));
  }

  function show(tree) {
    over();
    if (tree === here || tree === undefined) return;
    here = tree;
    sentence.textContent = names[tree];
    facts.textContent = `${nodes[tree]} nodes; ${model.get("error_means")}: ${errors[tree].toPrecision(3)}`;
    drawing.textContent = texts.get(tree) ?? "";
    if (!texts.has(tree)) model.send({ tree });
  }

  function choose(tree) {
    if (tree === undefined) return;
    show(tree);
    choice.set("value", tree);
    choice.save_changes();
  }

  function keep(trees) {
    model.set("selected", trees);
    model.save_changes();
    table.replaceChildren();
    draw();
    if (!trees.length) return;
    const sorted = [...trees].sort((a, b) => errors[b] - errors[a] || nodes[b] - nodes[a]).slice(0, ROWS);
    const some = trees.length > ROWS ? `, of which the ${ROWS} with the largest errors` : "";
    const grid = make("table", table);
    make("caption", grid, { textContent: `${trees.length} trees inside the line${some}; Escape on the map forgets them` });
    const head = make("tr", make("thead", grid));
    for (const text of ["sentence", "nodes", model.get("error_means")]) make("th", head, { textContent: text }, { scope: "col" });
    const body = make("tbody", grid);
    for (const tree of sorted) {
      const row = make("tr", body, { onmouseenter: () => show(tree) });
      const choosing = { textContent: names[tree], title: "choose it", onclick: () => choose(tree), onfocus: () => show(tree) };
      make("button", make("th", row, {}, { scope: "row" }), choosing);
      for (const text of [nodes[tree], errors[tree].toPrecision(3)]) make("td", row, { textContent: text });
    }
  }

  function recolour() {
    const { values = [], ends } = model.get("coloured");
    codes = array(Uint8Array, model.get("coloured").codes);
    only = undefined;
    select.value = model.get("colour");
    legend.replaceChildren();
    if (ends) {
      make("span", legend, { textContent: ends[0] });
      const scale = `linear-gradient(90deg, ${model.get("ramps")[dark() ? "dark" : "light"]})`;
      make("span", legend, { className: "treelstm-ramp" }).style.background = scale;
      make("span", legend, { textContent: ends[1] });
    }
    values.forEach(([text, of], code) => {
      const button = make("button", legend, { title: "these alone" }, { "aria-pressed": false });
      make("span", button, { textContent: `${MARKS[hue(code)]} ` }).style.color = color(HUES[hue(code)]);
      button.append(`${text} (${of.toLocaleString("en")})`);
      button.onclick = () => {
        only = only === code ? undefined : code;
        [...legend.children].forEach((each, i) => each.setAttribute("aria-pressed", i === only));
        draw();
      };
    });
    draw();
  }

  canvas.onpointerdown = (event) => {
    from = { place: [event.offsetX, event.offsetY], left: plane.left, top: plane.top, far: false };
    canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointermove = ({ offsetX: x, offsetY: y }) => {
    if (!from) return show(plane.nearest([x, y]));
    const [dx, dy] = [x - from.place[0], y - from.place[1]];
    from.far ||= Math.hypot(dx, dy) > 4; // else it is a click
    if (moving.checked) [plane.left, plane.top, fitted] = [from.left + dx, from.top + dy, false];
    else if (from.far) (lasso ??= [from.place]).push([x, y]);
    moving.checked ? draw() : over();
  };
  canvas.onpointerup = ({ offsetX: x, offsetY: y }) => {
    if (lasso) keep(plane.inside(lasso));
    else if (from && !from.far) choose(plane.nearest([x, y]));
    from = lasso = undefined;
    draw();
  };
  const wheel = (event) => {
    if (document.activeElement !== canvas) return; // a page that is scrolled would stop here
    event.preventDefault();
    zoom(1.0015 ** -event.deltaY, event.offsetX, event.offsetY);
  };
  canvas.addEventListener("wheel", wheel, { passive: false });
  canvas.onkeydown = (event) => {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const acts = { Enter: () => choose(here), "+": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: () => zoom(0), Escape: () => keep([]) };
    if (!way && !acts[event.key]) return;
    event.preventDefault();
    if (!way) return acts[event.key]();
    const start = here ?? choice.get("value");
    const ahead = (dx, dy, i) => i !== start && dx * way[0] + dy * way[1] > Math.abs(dx * way[1] + dy * way[0]);
    show(plane.nearest(plane.at(start), ahead, Infinity));
    const [x, y] = plane.at(here ?? start);
    if (!plane.has([x, y])) [plane.left, plane.top] = [plane.left + canvas.clientWidth / 2 - x, plane.top + canvas.clientHeight / 2 - y];
    draw();
  };
  select.onchange = () => {
    model.set("colour", select.value);
    model.save_changes();
  };
  search.oninput = () => {
    const trees = having(folded, search.value);
    found = trees && new Set(trees);
    counted.textContent = found ? `${found.size} found` : "";
    draw();
  };
  const hear = ({ tree, text }) => {
    texts.set(tree, text);
    if (tree === here) drawing.textContent = text;
  };
  model.on("msg:custom", hear);
  model.on("change:coloured", recolour);
  const follow = () => show(model.get("named")[0]);
  model.on("change:named", follow);
  const theme = new MutationObserver(recolour);
  theme.observe(document.body, { attributes: true });
  const size = new ResizeObserver(() => (fitted ? zoom(0) : draw()));
  size.observe(canvas);
  recolour();
  follow();
  return () => {
    model.off("msg:custom", hear);
    model.off("change:coloured", recolour);
    model.off("change:named", follow);
    theme.disconnect();
    size.disconnect();
  };
}

export default { render };
