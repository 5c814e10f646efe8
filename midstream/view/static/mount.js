// Finds the places on the page that wait for a grid; several on one page do not disturb each other.

/** "dark" or "light" where a notebook says so, "" where the system decides. */
function notebookTheme() {
  const { dataset, classList } = document.body;
  if (dataset.jpThemeLight) return dataset.jpThemeLight === "false" ? "dark" : "light";
  if (classList.contains("vscode-dark")) return "dark";
  return classList.contains("vscode-light") ? "light" : "";
}

async function mount(place) {
  place.dataset.midstream = "opening";
  const packed = place.querySelector("script[type='application/x-midstream']");
  const plain = place.querySelector(".ms-plain");
  if (plain) plain.hidden = true;
  try {
    const data = await unpack(packed.textContent);
    const home = document.createElement("div");
    home.style.colorScheme = notebookTheme();
    place.append(home);
    place.grid = new MidstreamGrid(home, data);
    place.dataset.midstream = "open";
  } catch (error) {
    if (plain) plain.hidden = false;
    place.dataset.midstream = "failed";
    console.error("midstream: the grid could not be opened:", error);
  }
}

/** A cell's value, its place on the ramp and how it is written: what the tests hold against Python. */
function look(grid, stat, row, col) {
  const value = valueOf(grid, stat, row, col);
  return [value, placeOf(stat, value), written(stat, value)];
}

window.MidstreamGrid = Object.assign(MidstreamGrid, { unpack, look });
for (const place of document.querySelectorAll("[data-midstream='waiting']")) mount(place);
