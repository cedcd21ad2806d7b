"use strict";
// What everything else uses. Text from the data becomes a text node, and nothing ever becomes HTML.

// The same characters as in printable.py: controls, separators, what turns or hides text, halves of surrogate pairs.
const UNPRINTABLE = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\ufff9-\ufffb]/gu;

/** The text with what would turn, hide or break it escaped. */
function printable(text) {
  return text.replace(UNPRINTABLE, (one) => {
    const code = one.codePointAt(0);
    const [letter, digits] = code < 0x100 ? ["x", 2] : code < 0x10000 ? ["u", 4] : ["U", 8];
    return `\\${letter}${code.toString(16).padStart(digits, "0")}`;
  });
}

/** An element: `make("button", {class: "quiet", onclick}, "text", child)`; text is text. */
function make(tag, traits = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(traits)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null).map((child) => (typeof child === "string" ? printable(child) : child)));
  return element;
}

/** Words in backticks, and pins, as code; the rest as it is. */
function sentence(text) {
  return text.split(/`([^`]*)`|(--pin '[^']*')/).map((part, at) => (part && at % 3 ? make("code", {}, part) : printable(part ?? "")));
}

function counted(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

/** Put text on the clipboard, and say so on the button for a moment. */
async function copy(text, button) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { class: "offscreen" });
    area.value = text;
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const label = button.textContent;
  if (!button.dataset.label) button.dataset.label = label;
  button.textContent = done ? "Copied ✓" : "Select and copy by hand";
  setTimeout(() => (button.textContent = button.dataset.label), 1600);
}

/** Lines of text as they are. */
function lines(name, texts) {
  return make("pre", { class: name, tabindex: "0" }, document.createTextNode(texts.map(printable).join("\n")));
}

/** A heading with what belongs to it. */
function panel(id, title, ...children) {
  return make("section", { id, class: "panel", "aria-labelledby": `${id}-title` }, make("h2", { id: `${id}-title` }, title), ...children);
}

function symbol(mark, tone) {
  return make("span", { class: `symbol ${tone}`, "aria-hidden": "true" }, mark);
}
