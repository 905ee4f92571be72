// The table of the first page: what is shown of the rows that the page holds, and a link that keeps it.
// Every name may be a stranger's, so text gets into the page as text (textContent) and in no other way.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("filters");
  const DASH = "–";
  const FLAGS = { main: 1, baseline: 2, pretrained: 4, stochastic: 8, painted: 16 };
  const tenths = (v) => (v ? v.map((one) => one / 10) : null);
  const rows = data.rows.map((r, number) => ({
    number, board: data.boards[r[0]], boardNumber: r[0], place: data.places[r[1]], detector: data.detectors[r[2]],
    label: data.labels[r[3]], rank: r[4], protocol: data.texts[r[5]], clean: tenths(r[6]), robust: tenths(r[7]),
    by: {
      [data.texts[r[5]]]: tenths(r[7]),
      ...Object.fromEntries(Object.entries(r[8]).map(([name, value]) => [data.texts[name], tenths(value)])),
    },
    best: r[9] ? [r[9][0] / 10, data.texts[r[9][1]]] : null,
    certified: r[10] ? [tenths(r[10][0]), data.texts[r[10][1]]] : null,
    cost: r[11].map((v) => (v < 0 ? null : v)),
    // Of each metric but the AUC the clean and the robust figure.
    metrics: [0, 2, 4, 6].map((at) => [0, 1].map((side) => (r[12][at + side] >= 0 ? r[12][at + side] / 10 : null))),
    marks: r[13], flags: r[14], fits: r[16],
    page: r[17] ? `${data.detectors[r[2]][2]}${r[17]}.html` : "",
    is: (what) => (r[15] & FLAGS[what]) > 0,
  }));

  // -- words and nodes ------------------------------------------------------------------------------------------------
  const interval = (v) => (v ? `${v[0].toFixed(1)} [${v[1].toFixed(1)}, ${v[2].toFixed(1)}]` : DASH);
  const node = (tag, text, attributes = {}) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const link = (text, href, attributes) => node("a", text, { href, ...attributes });
  const small = (text) => node("small", text);
  const family = (row) => {
    const name = row.detector[0];
    return name.includes(":") ? name.slice(0, name.indexOf(":")) : "single methods";
  };

  // -- metrics and columns --------------------------------------------------------------------------------------------
  const METRICS = [
    ["auc", "AUC", true], ["aupr", "AUPR", true], ["fpr95", "FPR at 95 % TPR", false],
    ["accuracy", "robust accuracy", true], ["pixel", "pixel AUROC", true],
  ];
  const state = { metric: "auc", hidden: null, asked: null }; // hidden columns: those of now, and those that somebody chose
  const metric = () => METRICS.find(([name]) => name === form.metric.value) || METRICS[0];
  const figure = (row, side) => {
    const index = METRICS.findIndex(([name]) => name === metric()[0]);
    return index <= 0 ? row[side] : row.metrics[index - 1][side === "clean" ? 0 : 1];
  };
  const first = (v) => (Array.isArray(v) ? v[0] : v);
  const written = (v) => (Array.isArray(v) ? interval(v) : v === null || v === undefined ? DASH : v.toFixed(1));
  const budget = (row) => row.cost.slice(0, 2).map((v) => (v === null ? "?" : v.toLocaleString("en"))).join(" + ");
  const kinds = (row) => ["stochastic", "pretrained", "painted"].filter((name) => row.is(name));
  const protocols = [...new Set(data.boards.flatMap((board) => board.protocols))];

  // Each: what it is called, the word that is explained, a value to sort by, its text, and a cell where text is not all.
  const COLUMNS = [
    { id: "rank", title: "rank", word: 1, value: (r) => r.rank || 1e9, text: (r) => (r.rank ? String(r.rank) : DASH) },
    {
      id: "detector", title: "detector", word: 2, isText: true, value: (r) => r.label.toLowerCase(),
      text: (r) => r.label,
      cell: (r) => [link(r.label, r.detector[1]), ...(r.detector[3] ? [small(r.detector[3])] : [])],
    },
    {
      id: "where", title: "data", word: 3, isText: true, value: (r) => `${r.board.data} ${r.place}`,
      text: (r) => `${r.board.data}, ${r.place}`,
      cell: (r) => [link(r.board.data, r.board.page), small(r.place)],
    },
    {
      id: "ball", title: "ball", word: 4, value: (r) => r.board.size, text: (r) => `${r.board.norm} ${r.board.epsilon}`,
      cell: (r) => [r.board.epsilon, small(`${r.board.norm}, ${r.board.preset}`)],
    },
    {
      id: "clean", title: () => `clean ${metric()[1]}`, word: 5, value: (r) => first(figure(r, "clean")) ?? -1,
      text: (r) => written(figure(r, "clean")), isFigure: true,
    },
    {
      id: "robust", title: () => (metric()[0] === "accuracy" ? metric()[1] : `robust ${metric()[1]}`), word: 6,
      value: (r) => first(figure(r, "robust")) ?? -1, isFigure: true,
      text: (r) => `${written(figure(r, "robust"))} ${r.marks}`.trim(),
      cell: (r) => {
        const text = written(figure(r, "robust"));
        const marks = r.marks ? [link(r.marks, "meaning.html#marks", { class: "marks", title: "What the marks mean" })] : [];
        return [r.page ? link(text, r.page) : text, ...marks, small(`${r.protocol}: ${r.board.attack}`)];
      },
    },
    ...protocols.map((name) => ({
      id: `under-${name}`, title: `under ${name}`, word: 7, isFigure: true, isProtocol: true,
      value: (r) => first(r.by[name]) ?? -1, text: (r) => interval(r.by[name]),
    })),
    {
      id: "best", title: "best known", word: 8, value: (r) => (r.best ? r.best[0] : -1), isFigure: true,
      text: (r) => (r.best ? `${r.best[0].toFixed(1)} ${r.best[1]}` : DASH),
      cell: (r) => {
        if (!r.best) return [DASH];
        const isOwn = r.robust && r.best[0] === r.robust[0];
        return [r.best[0].toFixed(1), ...(isOwn ? [] : [small(r.best[1])])];
      },
    },
    {
      id: "certified", title: "certified", word: 9, value: (r) => (r.certified ? r.certified[0][0] : -1), isFigure: true,
      text: (r) => (r.certified ? `${interval(r.certified[0])} (${r.certified[1]})` : DASH),
      cell: (r) =>
        r.certified ? [link(interval(r.certified[0]), "certificates.html"), small(r.certified[1])] : [DASH],
    },
    {
      id: "budget", title: "gradients + forward", word: 10,
      value: (r) => (r.cost[0] === null ? 1e12 : r.cost[0] + (r.cost[1] || 0)), text: budget,
    },
    {
      id: "seconds", title: "seconds per image", word: 11, value: (r) => r.cost[2] ?? 1e12,
      text: (r) => (r.cost[2] === null ? DASH : r.cost[2].toPrecision(2)),
    },
    {
      id: "flags", title: "flags", word: 12, isText: true, value: (r) => r.flags.length,
      text: (r) => r.flags.map((n) => data.texts[n]).join("; "),
      cell: (r) => (r.flags.length ? [flagList(r)] : [small("none")]),
    },
    {
      id: "kind", title: "kind", word: 13, isText: true, value: (r) => kinds(r).length,
      text: (r) => kinds(r).join(", "), cell: (r) => kinds(r).map((name) => node("span", name, { class: "badge" })),
    },
    { id: "fits", title: "fits", word: 16, value: (r) => r.fits, text: (r) => String(r.fits) },
  ];
  const flagList = (row) => {
    const list = node("ul", undefined, { class: "flags" });
    for (const number of row.flags) {
      const item = node("li");
      item.append(link(data.texts[number], `meaning.html${data.flags[number] || "#flags"}`));
      list.append(item);
    }
    return list;
  };
  const title = (column) => (typeof column.title === "function" ? column.title() : column.title);
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
    const isBeside = kept.some((row) => Object.keys(row.by).some((name) => name !== row.protocol));
    const single = isBeside ? [] : protocols.map((name) => `under-${name}`);
    return [...new Set([...HIDDEN, ...shared, ...single])];
  };

  // -- filters --------------------------------------------------------------------------------------------------------
  const FILTERS = {
    data: (r) => r.board.data, place: (r) => r.place, norm: (r) => r.board.norm, epsilon: (r) => r.board.epsilon,
    protocol: (r) => r.protocol, preset: (r) => r.board.preset, family,
  };
  const MAIN = "\u0000main"; // no category is called so
  const start = rows[0] ? rows[0].board : null;
  const DEFAULTS = {
    data: start ? start.data : "", place: MAIN, norm: start ? start.norm : "", epsilon: start ? start.epsilon : "",
    protocol: "", preset: start ? start.preset : "", family: "", metric: "auc", q: "",
  };
  const passes = (row, name) => {
    const asked = form[name].value;
    if (asked === "" || (name === "family" && row.is("baseline"))) return true;
    return asked === MAIN ? row.is("main") : FILTERS[name](row) === asked;
  };
  const isKept = (row) => Object.keys(FILTERS).every((name) => passes(row, name));
  const isFound = (row) => {
    const asked = form.q.value.trim().toLowerCase();
    return !asked || row.is("baseline") || `${row.label} ${row.detector[0]}`.toLowerCase().includes(asked);
  };
  const relax = (changed) => {
    // What was just chosen stays; of the others as many are given up as it takes to show something.
    for (const name of ["place", "protocol", "family", "epsilon", "norm", "preset", "data"]) {
      if (rows.some(isKept)) return;
      if (name !== changed) form[name].value = name === "place" && form.place.value !== MAIN ? MAIN : "";
    }
  };
  const order = new Intl.Collator("en", { numeric: true }).compare;
  for (const [name, of] of Object.entries(FILTERS)) {
    form[name].append(new Option("any", ""));
    if (name === "place") form[name].append(new Option("overall", MAIN));
    for (const value of [...new Set(rows.map(of))].sort(order)) {
      if (!(name === "place" && value === "average")) form[name].append(new Option(value, value));
    }
  }
  for (const [name, words] of METRICS) {
    const index = METRICS.findIndex(([other]) => other === name) - 1;
    if (index < 0 || rows.some((r) => r.metrics[index].some((v) => v !== null))) form.metric.append(new Option(words, name));
  }

  // -- the table ------------------------------------------------------------------------------------------------------
  const fill = (cell, column, row) => {
    const parts = column.cell ? column.cell(row) : [column.text(row)];
    cell.replaceChildren(...parts.filter((part) => part !== ""));
    cell.className = column.isText ? `text ${column.id}` : column.id;
  };
  let pinned = [];
  let isPinned = false;
  const table = new DataTable("#board", {
    data: rows,
    columns: COLUMNS.map((column) => ({
      data: null,
      title: title(column),
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
      head.title = document.getElementById(`word-${column.word}`).textContent;
      head.setAttribute("aria-describedby", `word-${column.word}`);
    });
    if (state.metric !== metric()[0]) refill();
    table.draw(options.keepPage ? "page" : true);
    for (const box of document.querySelectorAll("#columns input")) box.checked = !state.hidden.includes(box.value);
    say(kept);
    remember();
  };
  table.on("draw", drawPinned);
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
    if (event.target.name in FILTERS) relax(event.target.name);
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
