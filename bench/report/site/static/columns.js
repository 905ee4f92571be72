// What the rows of the first page are, and which columns they have: words, a value to sort by, and a cell.
// Every name may be a stranger's, so text gets into the page as text (textContent) and in no other way.
"use strict";
window.radbenchColumns = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("filters");
  const DASH = "–";
  const FLAGS = { main: 1, baseline: 2, pretrained: 4, stochastic: 8, painted: 16, adversarial: 32, extra: 64 };
  const first = (v) => (Array.isArray(v) ? v[0] : v);
  const tenths = (v) => (v ? v.map((one) => one / 10) : null);
  const rows = data.rows.map((r, number) => ({
    number, board: data.boards[r[0]], boardNumber: r[0], place: data.places[r[1]], detector: data.detectors[r[2]],
    label: data.labels[r[3]], rank: r[4], protocol: data.texts[r[5]], clean: tenths(r[6]), robust: tenths(r[7]),
    by: {
      [data.texts[r[5]]]: tenths(r[7]),
      ...Object.fromEntries(Object.entries(r[8]).map(([name, value]) => [data.texts[name], tenths(value)])),
    },
    // Of those who have no lower one the figure that ranks is the best known.
    best: r[9] ? [tenths(r[9][0]), data.texts[r[9][1]]] : null, lowest: tenths(r[9] ? r[9][0] : r[7]),
    certified: r[10] ? [tenths(r[10][0]), data.texts[r[10][1]]] : null,
    cost: r[11].map((v) => (v < 0 ? null : v)),
    // Of each metric but the AUC the clean and the robust figure.
    metrics: [0, 2, 4, 6].map((at) => [0, 1].map((side) => (r[12][at + side] >= 0 ? r[12][at + side] / 10 : null))),
    noise: r.slice(18).map(([title, value]) => [data.texts[title], tenths(value)]),
    marks: r[13], flags: r[14], fits: first(r[16]), spread: Array.isArray(r[16]) ? r[16][1] : null,
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
  const paper = ([, , , text, address]) => {
    const made = small(address ? undefined : text);
    if (address) made.append(link(text, address, { rel: "noreferrer" }));
    return made;
  };
  const family = (row) => {
    const name = row.detector[0];
    return name.includes(":") ? name.slice(0, name.indexOf(":")) : "single methods";
  };

  // -- metrics and columns --------------------------------------------------------------------------------------------
  const METRICS = [
    ["auc", "AUC", true], ["aupr", "AUPR", true], ["fpr95", "FPR at 95 % TPR", false],
    ["accuracy", "robust accuracy", true], ["pixel", "pixel AUROC", true],
  ];
  const metric = () => METRICS.find(([name]) => name === form.metric.value) || METRICS[0];
  const figure = (row, side) => {
    const index = METRICS.findIndex(([name]) => name === metric()[0]);
    return index <= 0 ? row[side] : row.metrics[index - 1][side === "clean" ? 0 : 1];
  };
  const written = (v) => (Array.isArray(v) ? interval(v) : v === null || v === undefined ? DASH : v.toFixed(1));
  const budget = (row) => row.cost.slice(0, 2).every((v) => v === null) ? DASH : row.cost.slice(0, 2).map((v) => (v === null ? "?" : v.toLocaleString("en"))).join(" + ");
  // What a stochastic detector's noise is worth: AUCs, so not beside other metrics.
  const noise = (row) => (metric()[0] === "auc" ? row.noise.map(([title, value]) => `${title}: ${interval(value)}`) : []);
  const KINDS = {
    stochastic: "stochastic", pretrained: "pretrained", extra: "extra data", adversarial: "adversarial training",
    painted: "painted defects",
  };
  const kinds = (row) => Object.keys(KINDS).filter((name) => row.is(name)).map((name) => KINDS[name]);
  const protocols = data.protocols; // the strongest first
  const attack = (row) => row.board.attacks[row.board.protocols.indexOf(row.protocol)] || "";

  // Each: what it is called, the word that is explained, a value to sort by, its text, and a cell where text is not all.
  const COLUMNS = [
    { id: "rank", title: "rank", word: 1, value: (r) => r.rank || 1e9, text: (r) => (r.rank ? String(r.rank) : DASH) },
    {
      id: "detector", title: "detector", word: 2, isText: true, value: (r) => r.label.toLowerCase(),
      text: (r) => r.label,
      cell: (r) => [link(r.label, r.detector[1]), ...(r.detector[3] ? [paper(r.detector)] : [])],
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
      text: (r) => [`${written(figure(r, "robust"))} ${r.marks}`.trim(), ...noise(r)].join("; "),
      cell: (r) => {
        const text = written(figure(r, "robust"));
        const marks = r.marks ? [link(r.marks, "meaning.html#marks", { class: "marks", title: "What the marks mean" })] : [];
        return [r.page ? link(text, r.page) : text, ...marks, small(`${r.protocol}: ${attack(r)}`), ...noise(r).map(small)];
      },
    },
    ...protocols.map((name) => ({
      id: `under-${name}`, title: `under ${name}`, word: 7, isFigure: true, isProtocol: true,
      value: (r) => first(r.by[name]) ?? -1, text: (r) => interval(r.by[name]),
    })),
    {
      id: "best", title: "best known", word: 8, value: (r) => first(r.lowest) ?? -1, isFigure: true,
      text: (r) => (r.best ? `${interval(r.lowest)} (${r.best[1]})` : interval(r.lowest)),
      cell: (r) => [interval(r.lowest), ...(r.best ? [small(r.best[1])] : [])],
    },
    {
      id: "certified", title: "certified (smoothed)", word: 9, value: (r) => (r.certified ? r.certified[0][0] : -1), isFigure: true,
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
      id: "kind", title: "kind", word: 13, alsoWords: [14, 15, 16, 17], isText: true, value: (r) => kinds(r).length,
      text: (r) => kinds(r).join(", "), cell: (r) => kinds(r).map((name) => node("span", name, { class: "badge" })),
    },
    {
      id: "fits", title: "fits", word: 18, value: (r) => r.fits,
      text: (r) => (r.spread === null ? String(r.fits) : `${r.fits} (±${r.spread.toFixed(1)})`),
      cell: (r) => [String(r.fits), ...(r.spread === null ? [] : [small(`±${r.spread.toFixed(1)}`)])],
    },
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
  const fill = (cell, column, row) => {
    const parts = column.cell ? column.cell(row) : [column.text(row)];
    cell.replaceChildren(...parts.filter((part) => part !== ""));
    cell.className = column.isText ? `text ${column.id}` : column.id;
    if (column.id === "detector") cell.setAttribute("role", "rowheader"); // whose figures these are, for who hears them
  };
  return { COLUMNS, METRICS, data, family, fill, form, metric, node, protocols, rows, title };
})();
