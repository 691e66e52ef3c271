"use strict";
// Sorting of tables and reading of charts. Everything else works without a script.
function sortable(table) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const key = (row) => row.cells[column].dataset.value;
      const rows = [...body.rows];
      const isNumber = rows.every((row) => key(row) === "" || !Number.isNaN(Number(key(row))));
      rows.sort((first, second) => {
        const [a, b] = [key(first), key(second)];
        // What has no value comes last, whichever way.
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = isNumber ? a - b : a.localeCompare(b, undefined, { numeric: true });
        return down ? -order : order;
      });
      body.append(...rows);
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  });
}

function readable(figure) {
  const table = document.querySelector(`[data-values="${figure.dataset.chart}"]`);
  if (!table) return;
  const svg = figure.querySelector("svg"), cursor = figure.querySelector(".cursor");
  const { low, high, start, end } = Object.fromEntries(Object.entries(svg.dataset).map(([k, v]) => [k, Number(v)]));
  const names = [...table.tHead.rows[0].cells].slice(1).map((cell) => cell.textContent);
  const rows = [...table.tBodies[0].rows];
  const readout = document.createElement("p");
  readout.className = "readout";
  readout.setAttribute("aria-live", "polite");
  readout.textContent = "Point at the chart, or use the arrow keys in it, to read the values of an epoch.";
  figure.append(readout);
  svg.setAttribute("tabindex", "0");
  let at = 0;
  const show = (place) => {
    at = Math.max(0, Math.min(rows.length - 1, place));
    const epoch = Number(rows[at].dataset.epoch);
    const x = start + (epoch - low) / (high - low) * (end - start);
    cursor.setAttribute("d", `M${x} 12V${svg.viewBox.baseVal.height - 38}`);
    const values = [...rows[at].cells].slice(1).map((cell, k) => [names[k], cell.textContent]);
    const found = values.filter(([, text]) => text).sort((a, b) => parseFloat(b[1]) - parseFloat(a[1]));
    readout.textContent = `Epoch ${epoch}: ` + found.map(([name, text]) => `trial ${name} ${text}`).join(", ");
  };
  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const epoch = low + (x - start) / (end - start) * (high - low);
    const far = (row) => Math.abs(Number(row.dataset.epoch) - epoch);
    show(rows.indexOf(rows.reduce((best, row) => (far(row) < far(best) ? row : best))));
  };
  svg.addEventListener("pointermove", nearest);
  svg.addEventListener("pointerdown", nearest);
  svg.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(to);
  });
}

document.querySelectorAll("table.sorts").forEach(sortable);
document.querySelectorAll("figure.chart").forEach(readable);
