// A combobox (the pattern of WAI-ARIA): type some words, and of any number of sentences those that have all of
// them are listed. The browser searches, so that it never waits for a kernel that is busy.

const PART = 200; // options that are listed at once; scrolling lists more

function render({ model, el }) {
  const names = model.get("names").split("\n");
  const folded = names.map(fold);
  const order = [...names.keys()].sort((a, b) => (folded[a] < folded[b] ? -1 : folded[a] > folded[b] ? 1 : a - b));
  const rank = Int32Array.from(order);
  order.forEach((tree, place) => (rank[tree] = place));
  const id = `treelstm-${Math.random().toString(36).slice(2)}`;
  let matches = order;
  let active = 0; // among the matches

  el.classList.add("treelstm-choice");
  el.dataset.lmSuppressShortcuts = "true"; // without it, keys would act on cells
  make("label", el, { textContent: "sentence", htmlFor: id });
  const input = make(
    "input",
    el,
    { id, type: "text", autocomplete: "off", spellcheck: false, placeholder: "type some of its words" },
    { role: "combobox", "aria-autocomplete": "list", "aria-expanded": false, "aria-controls": `${id}-list` },
  );
  const count = make("span", el, {}, { "aria-live": "polite" });
  const list = make("ul", el, { id: `${id}-list`, hidden: true }, { role: "listbox", "aria-label": "sentences" });

  function search(query) {
    const found = having(folded, query);
    matches = found ? found.sort((a, b) => rank[a] - rank[b]) : order;
    list.replaceChildren();
    list.scrollTop = 0;
    more(PART);
    active = found ? 0 : rank[model.get("value")];
    tell();
    open(true);
  }

  function more(upTo) {
    for (let at = list.children.length; at < Math.min(upTo, matches.length); at++) {
      make("li", list, { id: `${id}-${at}`, textContent: names[matches[at]] }, { role: "option" });
    }
  }

  function open(wanted) {
    list.hidden = !wanted;
    input.setAttribute("aria-expanded", wanted);
    if (wanted) go(active);
    else input.removeAttribute("aria-activedescendant");
  }

  function go(to) {
    list.children[active]?.setAttribute("aria-selected", false);
    active = Math.min(Math.max(to, 0), matches.length - 1);
    more(Math.ceil((active + 2) / PART) * PART);
    const option = list.children[active];
    if (!option) return input.removeAttribute("aria-activedescendant");
    option.setAttribute("aria-selected", true);
    input.setAttribute("aria-activedescendant", option.id);
    option.scrollIntoView({ block: "nearest" });
  }

  function tell() {
    const all = names.length.toLocaleString("en");
    const some = `${matches.length.toLocaleString("en")} of ${all} match`;
    count.textContent = matches === order ? `${all} sentences` : some;
  }

  function choose(tree) {
    if (tree === undefined) return;
    model.set("value", tree);
    model.save_changes();
    close();
    input.select();
  }

  function close() {
    matches = order;
    input.value = input.title = names[model.get("value")];
    tell();
    open(false);
  }

  input.onclick = () => list.hidden && (input.select(), search(""));
  input.oninput = () => search(input.value);
  input.onblur = close;
  input.onkeydown = (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 };
    if (event.key in steps) {
      event.preventDefault();
      if (list.hidden) search("");
      else go(active + steps[event.key]);
    } else if (event.key === "Enter" && !list.hidden) {
      event.preventDefault();
      choose(matches[active]);
    } else if (event.key === "Escape") close();
  };
  list.onmousedown = (event) => event.preventDefault(); // the input keeps the focus
  list.onclick = (event) => choose(matches[[...list.children].indexOf(event.target)]);
  list.onscroll = () => {
    if (list.scrollTop + 2 * list.clientHeight > list.scrollHeight) more(list.children.length + PART);
  };

  const changed = () => list.hidden && close();
  model.on("change:value", changed);
  close();
  return () => model.off("change:value", changed);
}

export default { render };
