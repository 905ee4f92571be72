// The table of the first page: what is shown of the rows that the page holds, and a link that keeps it.
"use strict";
(() => {
  const { COLUMNS, METRICS, data, family, fill, form, metric, node, protocols, rows, title } = window.radbenchColumns;
  // Hidden columns: those of now, and those that somebody chose.
  const state = { metric: "auc", hidden: null, asked: null };
  const narrow = window.matchMedia("(max-width: 700px)").matches;
  const someHave = (test) => rows.some(test);
  const HIDDEN = COLUMNS.filter(
    (c) =>
      (c.id === "certified" && !someHave((r) => r.certified)) ||
      (c.id === "fits" && !someHave((r) => r.fits > 1)) ||
      (narrow && ["where", "ball", "budget", "seconds", "kind", "fits"].includes(c.id)),
  ).map((c) => c.id);

  const usuallyHidden = (kept) => {
    // On one leaderboard what all rows share is said once, above; and a protocol is a column where others stand beside.
    const shared = isPinned ? ["where", "ball"] : [];
    const isBeside = (name) => kept.some((row) => row.by[name] && name !== row.protocol);
    const single = protocols.filter((name) => !isBeside(name) && name !== form.protocol.value).map((name) => `under-${name}`);
    return [...new Set([...HIDDEN, ...shared, ...single])];
  };

  // -- filters --------------------------------------------------------------------------------------------------------
  const FILTERS = {
    data: (r) => r.board.data, place: (r) => r.place, norm: (r) => r.board.norm, epsilon: (r) => r.board.epsilon,
    protocol: (r) => r.protocol, preset: (r) => r.board.preset, family,
  };
  const MAIN = "\u0000main"; // no category is called so
  const start = data.boards[data.start] || null;
  const DEFAULTS = {
    data: start ? start.data : "", place: MAIN, norm: start ? start.norm : "", epsilon: start ? start.epsilon : "",
    protocol: "", preset: start ? start.preset : "", family: "", metric: "auc", q: "",
  };
  const passes = (row, name) => {
    const asked = form[name].value;
    if (asked === "" || (name === "family" && row.is("baseline"))) return true;
    if (name === "protocol") return row.protocol === asked || Boolean(row.by[asked]);
    return asked === MAIN ? row.is("main") : FILTERS[name](row) === asked;
  };
  const isKept = (row) => Object.keys(FILTERS).every((name) => passes(row, name));
  const isFound = (row) => {
    const asked = form.q.value.trim().toLowerCase();
    return !asked || row.is("baseline") || `${row.label} ${row.detector[0]}`.toLowerCase().includes(asked);
  };
  const relax = (kept) => {
    // What was just chosen, or is in a link, stays; of the others as many are given up as it takes to show something.
    for (const name of ["place", "protocol", "family", "epsilon", "norm", "preset", "data"]) {
      if (rows.some(isKept)) return;
      if (!kept.includes(name)) form[name].value = name === "place" && form.place.value !== MAIN ? MAIN : "";
    }
  };
  const order = new Intl.Collator("en", { numeric: true }).compare;
  for (const [name, of] of Object.entries(FILTERS)) {
    form[name].append(new Option("any", ""));
    if (name === "place") form[name].append(new Option("overall", MAIN));
    const values = name === "protocol" ? protocols : [...new Set(rows.map(of))].sort(order);
    for (const value of values) {
      if (!(name === "place" && value === "average")) form[name].append(new Option(value, value));
    }
  }
  for (const [name, words] of METRICS) {
    const index = METRICS.findIndex(([other]) => other === name) - 1;
    if (index < 0 || rows.some((r) => r.metrics[index].some((v) => v !== null))) form.metric.append(new Option(words, name));
  }

  // -- the table ------------------------------------------------------------------------------------------------------
  let pinned = [];
  let isPinned = false;
  const table = new DataTable("#board", {
    data: rows,
    columns: COLUMNS.map((column) => ({
      data: null,
      title: node("span", title(column)).innerHTML, // which is taken for HTML, and a protocol may be a stranger's
      ariaTitle: title(column),
      className: column.isText ? "text" : "",
      type: column.isText && column.id !== "flags" && column.id !== "kind" ? "string" : "num",
      orderSequence: column.isFigure || ["flags", "kind", "fits"].includes(column.id) ? ["desc", "asc"] : ["asc", "desc"],
      render: (_, type, row) => (type === "sort" || type === "type" ? column.value(row) : ""),
      createdCell: (cell, _, row) => fill(cell, column, row),
    })),
    order: [[0, "asc"]],
    autoWidth: false,
    pageLength: 100,
    lengthChange: false,
    layout: { topStart: null, topEnd: null, bottomStart: "info", bottomEnd: "paging" },
    language: {
      info: "Rows _START_ to _END_ of _TOTAL_", infoEmpty: "No rows", infoFiltered: "", emptyTable: "There are no records.",
      zeroRecords: "No detector beside the baselines.",
    },
  });
  const around = document.querySelector(".dt-layout-table");
  for (const [name, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", "Leaderboard"]]) {
    around.setAttribute(name, value); // it scrolls, so the keyboard must get into it
  }
  const extra = node("tbody", undefined, { class: "baselines" });
  document.getElementById("board").append(extra);
  table.search.fixed("shown", (_, row) => isKept(row) && isFound(row) && !(isPinned && row.is("baseline")));

  const visible = () => COLUMNS.filter((column) => !state.hidden.includes(column.id));
  const drawPinned = () => {
    extra.replaceChildren(
      ...pinned.map((row) => {
        const line = node("tr", undefined, { class: "baseline" });
        for (const column of visible()) {
          const cell = node("td");
          fill(cell, column, row);
          line.append(cell);
        }
        return line;
      }),
    );
  };
  const described = (board, kept) => {
    const places = [...new Set(kept.map((row) => row.place))];
    const place = places.length > 1 ? `${places.length} places` : places[0] === "average" ? `average over ${board.categories} categories` : places[0];
    const ranks = kept.filter((row) => row.rank && !row.is("baseline")).map((row) => row.rank);
    const above = isPinned ? pinned.filter((row) => row.rank && ranks.length && row.rank < Math.min(...ranks)).length : 0;
    const honest = above ? ` ${above} of ${pinned.length} baselines stand${above === 1 ? "s" : ""} above every detector.` : "";
    return `${board.title}; ${place}; ${board.preset}; ${board.images[0]}.${honest}`;
  };
  const say = (kept) => {
    const boards = [...new Set(kept.map((row) => row.boardNumber))];
    const one = boards.length === 1 ? data.boards[boards[0]] : null;
    const words = one ? described(one, kept) : `${boards.length} leaderboards; ranks are each one's own.`;
    document.getElementById("where").textContent = kept.length ? words : "Nothing was measured that fits.";
  };
  const refill = () => {
    // What is sorted by has changed; and all cells that have been drawn so far are emptied by that.
    state.metric = metric()[0];
    table.rows().invalidate();
    table.rows().every(function () {
      if (!this.node()) return;
      COLUMNS.forEach((column, number) => {
        fill(table.cell(this.index(), number).node(), column, this.data());
      });
    });
  };
  const update = (options = {}) => {
    const kept = rows.filter(isKept);
    isPinned = new Set(kept.map((row) => `${row.boardNumber} ${row.place}`)).size === 1;
    state.hidden = state.asked ?? usuallyHidden(kept);
    pinned = isPinned ? kept.filter((row) => row.is("baseline")) : [];
    COLUMNS.forEach((column, number) => {
      const shown = !state.hidden.includes(column.id);
      if (table.column(number).visible() !== shown) table.column(number).visible(shown, false);
      const head = table.column(number).header();
      const words = head.querySelector(".dt-column-title") || head;
      if (words.textContent !== title(column)) words.textContent = title(column);
      const meanings = [column.word, ...(column.alsoWords || [])].map((word) => document.getElementById(`word-${word}`));
      head.title = meanings.length === 1 ? meanings[0].textContent
        : meanings.map((one) => `${one.previousElementSibling.textContent}: ${one.textContent}`).join("; ");
      head.setAttribute("aria-describedby", meanings.map((one) => one.id).join(" "));
    });
    if (state.metric !== metric()[0]) refill();
    table.draw(options.keepPage ? "page" : true);
    for (const box of document.querySelectorAll("#columns input")) box.checked = !state.hidden.includes(box.value);
    say(kept);
    remember();
  };
  table.on("draw", () => {
    drawPinned();
    // What a screen reader hears of a heading follows the metric, too.
    COLUMNS.forEach((column, number) => {
      const button = table.column(number).header().querySelector(".dt-column-order");
      const told = button.getAttribute("aria-label") || "";
      button.setAttribute("aria-label", `${title(column)}${told.slice(told.lastIndexOf(": "))}`);
    });
  });
  table.on("order", () => remember());
  table.on("page", () => setTimeout(remember));

  // -- the link that keeps it -----------------------------------------------------------------------------------------
  let isReading = false;
  const remember = () => {
    if (isReading || state.hidden === null) return;
    const found = new URLSearchParams();
    for (const [name, usual] of Object.entries(DEFAULTS)) {
      const value = form[name].value;
      if (value !== usual) found.set(name, value === MAIN ? "overall!" : value === "" ? "any!" : value);
    }
    const [sorted] = table.order();
    if (sorted && (sorted[0] !== 0 || sorted[1] !== "asc")) found.set("sort", `${COLUMNS[sorted[0]].id}.${sorted[1]}`);
    if (state.asked) found.set("hide", state.asked.join(",") || "none!");
    if (table.page() > 0) found.set("page", String(table.page() + 1));
    const hash = found.toString();
    if (location.hash.slice(1) !== hash) history.replaceState(null, "", hash ? `#${hash}` : location.pathname);
  };
  const recall = () => {
    isReading = true;
    const told = new URLSearchParams(location.hash.slice(1));
    for (const [name, usual] of Object.entries(DEFAULTS)) {
      const value = told.has(name) ? told.get(name) : usual;
      form[name].value = value === "overall!" ? MAIN : value === "any!" ? "" : value;
      // A select that has no such option would be left empty.
      if (form[name].selectedIndex === -1) form[name].value = name in FILTERS ? "" : usual;
    }
    relax([...told.keys()]);
    const known = COLUMNS.map((column) => column.id);
    const hide = told.get("hide");
    state.asked = hide === null ? null : hide.split(",").filter((id) => known.includes(id));
    const [id, direction] = (told.get("sort") || "rank.asc").split(".");
    table.order([Math.max(0, known.indexOf(id)), direction === "desc" ? "desc" : "asc"]);
    update();
    const page = Number.parseInt(told.get("page") || "1", 10) - 1;
    if (page > 0 && page < table.page.info().pages) table.page(page).draw("page");
    isReading = false;
  };

  // -- the tools ------------------------------------------------------------------------------------------------------
  const menu = document.querySelector("#columns .menu");
  for (const column of COLUMNS) {
    if (column.id === "detector") continue;
    const label = node("label");
    label.append(node("input", undefined, { type: "checkbox", value: column.id }), ` ${column.title.call ? column.id : column.title}`);
    menu.append(label);
  }
  menu.addEventListener("change", (event) => {
    const { value, checked } = event.target;
    state.asked = COLUMNS.map((c) => c.id).filter((id) => (id === value ? !checked : state.hidden.includes(id)));
    update({ keepPage: true });
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    if (!event.target.name) return;
    if (event.target.name in FILTERS) relax([event.target.name]);
    update();
  });
  document.getElementById("reset").addEventListener("click", () => {
    history.replaceState(null, "", location.pathname);
    recall();
  });
  document.getElementById("downloads").addEventListener("click", (event) => {
    const { format } = event.target.dataset;
    if (format) window.radbenchExport.save(format, ...shown());
  });
  const shown = () => {
    const columns = visible();
    const listed = [...table.rows({ search: "applied", order: "applied" }).data().toArray(), ...pinned];
    const cells = listed.map((row) => columns.map((column) => column.text(row)));
    return [columns.map(title), cells, document.getElementById("where").textContent];
  };
  window.radbenchShown = shown;
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const open of form.querySelectorAll("details[open]")) open.open = false;
  });
  window.addEventListener("hashchange", recall);
  for (const id of ["filters", "holder", "legend"]) document.getElementById(id).hidden = false;
  recall();
})();
