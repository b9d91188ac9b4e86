"use strict";
(() => {
  const find = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const data = JSON.parse(find("#report-data").textContent);
  const numbers = new Intl.NumberFormat("en");
  const counted = (count, word) => `${numbers.format(count)} ${word}${count === 1 ? "" : "s"}`;

  function make(name, properties = {}, children = []) {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  }

  // Colours: as the system has them, then light, then dark.
  const themes = [["", "system"], ["light", "light"], ["dark", "dark"]];
  const theme = find("#theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const now = themes.findIndex(([name]) => name === (document.documentElement.dataset.theme ?? ""));
    const [name, words] = themes[(now + 1) % themes.length];
    if (name) document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
    find("span", theme).textContent = words;
  });

  // Tables: a click on a heading sorts by its column, another one the other way round. What has no value comes last.
  function sortBy(table, column, ascending) {
    const sign = ascending ? 1 : -1;
    const keyOf = (row) => {
      const cell = row.cells[column];
      if (!cell.classList.contains("number")) return cell.textContent;
      return "value" in cell.dataset ? Number(cell.dataset.value) : null;
    };
    const rows = [...table.tBodies[0].rows].map((row) => [keyOf(row), row]);
    const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
    rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  for (const table of all("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const button = make("button", { type: "button" });
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        // Figures begin with the lowest, which is what one looks for; so do names.
        const ascending = heading.getAttribute("aria-sort") !== "ascending";
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        sortBy(table, column, ascending);
      });
    });
  }

  // The confusion matrix: a cell lists its images below.
  const PAGE = 60;
  const panel = find("#cell");
  const more = find(".more", panel);
  const list = find(".pictures", panel);
  const byCell = new Map();
  for (const row of data.examples) {
    const key = `${row[1]},${row[2]}`;
    if (!byCell.has(key)) byCell.set(key, []);
    byCell.get(key).push(row);
  }

  const hasPicture = (position) => position in data.thumbnails || document.getElementById(`p${position}`) !== null;

  function pictureOf(position, words) {
    const [source, width, height] = data.thumbnails[position] ?? [];
    if (source) return make("img", { src: `data:image/webp;base64,${source}`, width, height, alt: words });
    const shown = document.getElementById(`p${position}`); // it is on a card
    if (!shown) return null;
    const [across, down] = [shown.width.baseVal.value, shown.height.baseVal.value];
    const scale = data.side / Math.max(across, down);
    return make("img", {
      src: shown.href.baseVal, width: Math.round(across * scale), height: Math.round(down * scale), alt: words,
    });
  }

  function itemOf([path, truth, predicted, score, truthScore, position]) {
    const words = `${path}: ${data.classes[truth]}, predicted as ${data.classes[predicted]}`;
    const scores = `score ${(score / 10).toFixed(1)} %`;
    const alternative = truth === predicted ? "" : `, true class ${(truthScore / 10).toFixed(1)} %`;
    const picture = pictureOf(position, words);
    return make("li", {}, [
      ...(picture ? [make("div", { className: "frame" }, [picture])] : []),
      make("bdi", { className: "name", textContent: path }),
      make("div", { className: "soft", textContent: scores + alternative }),
    ]);
  }

  function showMore(rows) {
    const shown = list.children.length;
    list.append(...rows.slice(shown, shown + PAGE).map(itemOf));
    more.hidden = list.children.length >= rows.length;
  }

  // The page says of a cell as little as needed: of a hundred classes there are ten thousand.
  function cellOf(button) {
    const truth = Number(button.closest("tr").dataset.truth);
    return { truth, predicted: Number(button.dataset.predicted), count: Number(button.dataset.count ?? button.textContent) };
  }

  function showCell(button) {
    const { truth, predicted, count } = cellOf(button);
    const rows = byCell.get(`${truth},${predicted}`) ?? [];
    all("[aria-pressed]").forEach((other) => other.setAttribute("aria-pressed", "false"));
    button.setAttribute("aria-pressed", "true");
    const name = (index) => make("bdi", { textContent: data.classes[index] });
    const how = truth === predicted ? [name(truth), " recognised"] : [name(truth), " predicted as ", name(predicted)];
    find("h3", panel).replaceChildren(...how, `: ${counted(count, "image")}`);
    const bare = rows.filter(([, , , , , position]) => !hasPicture(position)).length;
    const left = count - rows.length;
    find("p", panel).textContent = [
      bare ? `${counted(bare, "image")} without a picture, to keep the file small or because it can no longer be read.` : "",
      left ? `${counted(left, "more image")}: see predictions.csv, next to this file.` : "",
    ].join(" ");
    list.replaceChildren();
    more.onclick = () => showMore(rows);
    showMore(rows);
    panel.hidden = false;
    find("h3", panel).scrollIntoView({ block: "nearest" }); // as little as needed: the matrix stays in sight
  }

  const matrix = find("#matrix");
  const cells = all("button", matrix);
  for (const button of [...cells, ...all("#pairs button")]) {
    const { truth, predicted, count } = cellOf(button);
    const share = `${((100 * count) / data.support[truth]).toFixed(1)} %`;
    const words = `${data.classes[truth]} predicted as ${data.classes[predicted]}: ${counted(count, "image")} (${share})`;
    button.title = words;
    button.setAttribute("aria-label", words);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => showCell(button));
  }

  // One stop for the Tab key in the whole matrix; the arrow keys go to the next cell that holds images.
  const grid = [...matrix.tBodies[0].rows].map((row) => [...row.cells].slice(1).map((cell) => find("button", cell)));
  cells.forEach((button, number) => (button.tabIndex = number ? -1 : 0));
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  matrix.addEventListener("keydown", (event) => {
    const [down, across] = steps[event.key] ?? [];
    if (down === undefined || !event.target.matches("button")) return;
    event.preventDefault();
    let row = event.target.closest("tr").sectionRowIndex;
    let column = event.target.closest("td").cellIndex - 1;
    do {
      row += down;
      column += across;
    } while (grid[row]?.[column] === null);
    const next = grid[row]?.[column];
    if (!next) return;
    cells.forEach((button) => (button.tabIndex = -1));
    next.tabIndex = 0;
    next.focus();
  });

  // On paper nothing can be unfolded.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = all("details:not([open])");
    folded.forEach((element) => (element.open = true));
  });
  addEventListener("afterprint", () => folded.forEach((element) => (element.open = false)));
})();
