// The button that chooses between light and dark.

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
