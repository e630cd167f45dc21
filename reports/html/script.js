// The table of cells: sort by a heading, filter by words and status, switch column groups on.
"use strict";
(() => {
  const table = document.getElementById("cells-table");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const words = document.getElementById("filter");
  const status = document.getElementById("status");
  const count = document.getElementById("count");
  const headings = [...table.tHead.rows[0].cells];
  const statusColumn = headings.findIndex((th) => th.textContent.trim() === "status");
  const texts = rows.map((row) => row.textContent.toLowerCase());

  function filter() {
    const asked = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      const fits =
        asked.every((word) => texts[i].includes(word)) &&
        (!status.value || row.cells[statusColumn].textContent.trim() === status.value);
      row.hidden = !fits;
      shown += fits;
    });
    count.textContent = shown === rows.length ? `${shown} cells` : `${shown} of ${rows.length} cells`;
  }

  function sort(column) {
    const heading = headings[column];
    const falling = heading.getAttribute("aria-sort") === "ascending";
    headings.forEach((th) => th.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const sign = falling ? -1 : 1;
    const numeric = heading.classList.contains("num");
    const key = (row) => {
      const cell = row.cells[column];
      if (numeric) return "v" in cell.dataset ? Number(cell.dataset.v) : NaN;
      return cell.textContent;
    };
    rows
      .map((row) => [key(row), row])
      .sort(([a], [b]) => {
        if (!numeric) return sign * a.localeCompare(b, "en", { numeric: true });
        // What has no number comes last, whichever way the rest is sorted.
        if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
        return sign * (a - b);
      })
      .forEach(([, row]) => body.append(row));
  }

  headings.forEach((th, i) => th.querySelector("button").addEventListener("click", () => sort(i)));
  words.addEventListener("input", filter);
  status.addEventListener("change", filter);
  for (const box of document.querySelectorAll("[data-group]")) {
    const apply = () => table.classList.toggle(`show-${box.dataset.group}`, box.checked);
    box.addEventListener("change", apply);
    apply();
  }
})();
