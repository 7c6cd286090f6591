// Text areas for trees. What is typed is read after a rest, or at once by a press of the button; Python answers
// with a note on each and with what it found, as HTML in which all text of trees is escaped.

const REST = 700; // milliseconds
const MOST = 8e6; // bytes of a file that is read into an area

function render({ model, el }) {
  const labels = model.get("labels");
  const id = `treelstm-${Math.random().toString(36).slice(2)}`;
  let timer;

  el.classList.add("treelstm-form");
  el.dataset.lmSuppressShortcuts = "true"; // without it, keys would act on cells
  const areas = make("div", el, { className: "treelstm-areas" });
  const parts = labels.map((label, number) => {
    const part = make("div", areas);
    make("label", part, { textContent: label, htmlFor: `${id}-${number}` });
    const text = make(
      "textarea",
      part,
      { id: `${id}-${number}`, rows: labels.length > 1 ? 9 : 3, spellcheck: false, value: model.get("asked").texts[number] },
      { "aria-describedby": `${id}-${number}-said` },
    );
    const file = make("input", part, { type: "file" }, { "aria-label": `${label}, from a file` });
    const said = make("div", part, { id: `${id}-${number}-said`, className: "treelstm-said" }, { role: "status" });
    text.oninput = () => {
      clearTimeout(timer);
      timer = setTimeout(ask, REST);
    };
    file.onchange = async () => {
      const [chosen] = file.files;
      if (chosen.size > MOST) said.textContent = "This file is over 8 MB: write its path instead.";
      else text.value = await chosen.text();
      file.value = "";
      ask();
    };
    return { text, said };
  });
  make("button", el, { textContent: model.get("action"), onclick: ask });
  const found = make("div", el, { className: "treelstm-found jp-RenderedHTMLCommon" }, { "aria-live": "polite" });

  function ask() {
    clearTimeout(timer);
    const texts = parts.map(({ text }) => text.value);
    const before = model.get("asked");
    if (texts.every((text, number) => text === before.texts[number])) return;
    model.set("asked", { number: before.number + 1, texts });
    model.save_changes();
    show();
  }

  function show() {
    const { number, notes, wrong, html } = model.get("answer");
    el.classList.toggle("treelstm-busy", number !== model.get("asked").number);
    parts.forEach(({ text, said }, place) => {
      said.textContent = notes[place];
      text.setAttribute("aria-invalid", wrong[place]);
    });
    found.innerHTML = html;
  }

  const asked = () => {
    parts.forEach(({ text }, number) => {
      if (text !== document.activeElement) text.value = model.get("asked").texts[number];
    });
    show();
  };
  const left = () => el.classList.add("jupyter-widgets-disconnected"); // by its kernel
  model.on("comm_live_update", left);
  model.on("change:asked", asked);
  model.on("change:answer", show);
  show();
  return () => {
    model.off("comm_live_update", left);
    model.off("change:asked", asked);
    model.off("change:answer", show);
  };
}

export default { render };
