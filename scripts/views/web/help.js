// What keys and the pointer do, in a dialog.

const KEYS = [
  ["drag", "zoom to that stretch of time"],
  ["Shift and drag, arrow keys on a timeline", "move through time and memory"],
  ["W, S or +, −", "zoom in and out, around the cursor"],
  ["A, D", "earlier and later"],
  ["0, double click", "the whole migration"],
  ["Ctrl and wheel, Shift and wheel", "zoom time, zoom pages"],
  ["click", "a page's story, or why a wait was long"],
  ["Esc", "choose nothing"],
  ["?", "this help"],
];

function helpDialog() {
  const dialog = make("dialog", { id: "help", "aria-labelledby": "h-help" },
    make("h2", { id: "h-help" }, "Keys and pointer"),
    make("table", {}, make("tbody", {}, ...KEYS.map(([keys, what]) => make("tr", {}, make("th", { scope: "row" }, keys), make("td", {}, what))))),
    make("p", { class: "hint" }, "The address in the browser's bar holds what is shown: keep it or pass it on with the file."),
    make("form", { method: "dialog" }, make("button", {}, "close")));
  const button = make("button", { type: "button", id: "helpbutton", "aria-label": "Help: keys and pointer", onclick: () => dialog.showModal() }, "?");
  document.getElementById("theme").before(button);
  document.body.append(dialog);
  return () => (dialog.open ? dialog.close() : dialog.showModal());
}
