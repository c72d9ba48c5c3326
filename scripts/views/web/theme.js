// The button that chooses between light and dark, and paper, which is light.

// As wide as paper is, at the size of letters that a canvas has.
const PAPER_WIDTH = 1000;

function themeButton(again) {
  const button = document.getElementById("theme"), names = ["auto", "light", "dark"];
  let at = 0;
  button.addEventListener("click", () => {
    at = (at + 1) % 3;
    if (at) document.documentElement.dataset.theme = names[at]; else delete document.documentElement.dataset.theme;
    button.textContent = `colours: ${names[at]}`;
    button.setAttribute("aria-label", `Colours: ${at ? names[at] : "as the system has them"}`);
    again();
  });
}

// Has canvases drawn for paper while the page is printed; `again` gets the width, null for the screen's.
function onPrint(again) {
  const root = document.documentElement;
  let chosen;
  window.addEventListener("beforeprint", () => {
    chosen = root.dataset.theme;
    root.dataset.theme = "light";
    again(PAPER_WIDTH);
  });
  window.addEventListener("afterprint", () => {
    if (chosen) root.dataset.theme = chosen; else delete root.dataset.theme;
    again(null);
  });
}
