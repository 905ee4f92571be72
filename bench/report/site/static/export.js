// What is shown as a file: header and rows of plain text, escaped as bench/text.py does it. Names may be strangers'.
"use strict";
window.radbenchExport = (() => {
  const LATEX = {
    "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "$": "\\$", "&": "\\&", "#": "\\#", "%": "\\%", "_": "\\_",
    "^": "\\textasciicircum{}", "~": "\\textasciitilde{}", "<": "\\textless{}", ">": "\\textgreater{}",
    "|": "\\textbar{}", "\"": "\\textquotedbl{}", "`": "\\textasciigrave{}", "[": "{[}", "]": "{]}", "*": "{*}",
    "–": "--", "†": "\\dag{}", "‡": "\\ddag{}", "§": "\\S{}", "¶": "\\P{}", "±": "$\\pm$",
  };
  const HTML = { "&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;" };
  const each = (text, map) => Array.from(text, (c) => (Object.hasOwn(map, c) ? map[c] : c)).join("");

  const csv = (text) => {
    // A spreadsheet would run it as a formula; behind a semicolon, too, where those part cells.
    const safe = text.replace(/(^|;\s*)([=+\-@\uff1d\uff0b\uff0d\uff20])/g, "$1'$2");
    return /[",;\n\r]/.test(safe) ? `"${safe.replaceAll("\"", "\"\"")}"` : safe;
  };
  const latex = (text) => each(text, LATEX);
  const markdown = (text) =>
    Array.from(text, (c) => HTML[c] || ("\\`*_[]#~$!".includes(c) ? `\\${c}` : c)).join("")
      .replace(/(https?|ftp|mailto|xmpp):/gi, "$1&#58;")
      .replace(/\bwww\./gi, (found) => `${found.slice(0, 3)}&#46;`)
      .replaceAll("@", "&#64;");

  const formats = {
    csv: {
      type: "text/csv",
      text: (header, rows) => [header, ...rows].map((row) => row.map(csv).join(",")).join("\n") + "\n",
    },
    md: {
      type: "text/markdown",
      text: (header, rows, caption) => {
        const line = (cells) => `| ${cells.map(markdown).join(" | ")} |`;
        const rule = `|:--${"|--:".repeat(header.length - 1)}|`;
        return `${markdown(caption)}\n\n${[line(header), rule, ...rows.map(line)].join("\n")}\n`;
      },
    },
    tex: {
      type: "application/x-tex",
      text: (header, rows, caption) => {
        const line = (cells) => `${cells.map(latex).join(" & ")} \\\\`;
        return [
          "% \\usepackage[T1]{fontenc} \\usepackage{textcomp,booktabs}", "\\begin{table}", "\\centering",
          `\\caption{${latex(caption)}}`, `\\begin{tabular}{l${"r".repeat(header.length - 1)}}`, "\\toprule",
          line(header), "\\midrule", ...rows.map(line), "\\bottomrule", "\\end{tabular}", "\\end{table}", "",
        ].join("\n");
      },
    },
  };

  const text = (format, header, rows, caption) => formats[format].text(header, rows, caption);
  const save = (format, header, rows, caption) => {
    const link = document.createElement("a");
    const blob = new Blob([text(format, header, rows, caption)], { type: `${formats[format].type};charset=utf-8` });
    link.href = URL.createObjectURL(blob);
    link.download = `leaderboard.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  return { save, text };
})();
