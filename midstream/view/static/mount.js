// Finds the places on the page that wait for a grid; several on one page do not disturb each other.

// JupyterLab, its exports, VS Code and Colab say their theme on the page; elsewhere its colour scheme decides.
const DARK = "[data-jp-theme-light='false'], .vscode-dark, .vscode-high-contrast:not(.vscode-high-contrast-light), [theme='dark'] body";
const LIGHT = "[data-jp-theme-light='true'], .vscode-light, .vscode-high-contrast-light";

function followHost(place) {
  const { body } = document;
  place.style.colorScheme = body.matches(DARK) ? "dark" : body.matches(LIGHT) ? "light" : "";
}

/** Where a grid is put: in a notebook, whose fragment brings its style, out of reach of the host's style and keys. */
function homeIn(place) {
  const home = document.createElement("div");
  const style = place.querySelector("style");
  if (!style) return place.appendChild(home);
  place.attachShadow({ mode: "open" }).append(style, home, document.createElement("slot"));
  place.dataset.lmSuppressShortcuts = "true"; // tells JupyterLab, where "D" twice deletes a cell, that keys here are ours
  home.addEventListener("keydown", (event) => event.defaultPrevented && event.stopPropagation());
  return home;
}

async function mount(place) {
  place.dataset.midstream = "opening";
  const packed = place.querySelector("script[type='application/x-midstream']");
  const plain = place.querySelector(".ms-plain");
  plain.hidden = true;
  try {
    const data = await unpack(packed.textContent);
    followHost(place);
    place.grid = new MidstreamGrid(homeIn(place), data);
    place.dataset.midstream = "open";
  } catch (error) {
    plain.hidden = false;
    place.dataset.midstream = "failed";
    console.error("midstream: the grid could not be opened:", error);
  }
}

/** A cell's value, its place on the ramp and how it is written: what the tests hold against Python. */
function look(grid, stat, row, col) {
  const value = valueOf(grid, stat, row, col);
  return [value, placeOf(stat, value), written(stat, value)];
}

// Every output of a notebook brings this script; the first sees to it that all grids follow the host's theme.
if (!window.MidstreamGrid) {
  const themes = new MutationObserver(() => {
    for (const place of document.querySelectorAll("[data-midstream='open']")) {
      followHost(place);
      place.grid.restyle();
    }
  });
  themes.observe(document.body, { attributeFilter: ["class", "data-jp-theme-light"] });
}
window.MidstreamGrid = Object.assign(MidstreamGrid, { unpack, look });
for (const place of document.querySelectorAll("[data-midstream='waiting']")) mount(place);
