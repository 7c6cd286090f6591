// What the browser parts of several widgets begin with.

// The text as it is searched: accents and case do not count.
const fold = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

// The positions of the texts that have all words of a query, or undefined without any word.
function having(folded, query) {
  const words = fold(query).split(/\s+/).filter(Boolean);
  if (words.length) return [...folded.keys()].filter((i) => words.every((word) => folded[i].includes(word)));
}

function make(tag, parent, properties = {}, attributes = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  parent.append(element);
  return element;
}
