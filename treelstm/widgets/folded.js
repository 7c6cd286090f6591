// A widget below a line that opens and closes it.

async function render({ model, el }) {
  const details = make("details", el);
  details.dataset.lmSuppressShortcuts = "true"; // JupyterLab would take Enter for the cell
  make("summary", details, { textContent: model.get("title") });
  const child = await model.widget_manager.get_model(model.get("widget").replace("IPY_MODEL_", ""));
  const view = await model.widget_manager.create_view(child);
  details.append(view.el);
  view.trigger("displayed");
  return () => view.remove();
}

export default { render };
