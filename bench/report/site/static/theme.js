// Light or dark: what the system asks for, until somebody presses the button. Runs before the page is shown.
"use strict";
(() => {
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const kept = () => {
    try {
      return localStorage.getItem("radbench-theme");
    } catch {
      return null; // where the browser keeps nothing for pages on a disk
    }
  };
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const known = kept();
  if (known === "dark" || known === "light") root.dataset.theme = known;
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const say = () => {
      button.textContent = isDark() ? "Light" : "Dark";
      button.setAttribute("aria-label", `Show the page in ${isDark() ? "light" : "dark"} colours`);
    };
    button.hidden = false;
    say();
    system.addEventListener("change", say);
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      try {
        localStorage.setItem("radbench-theme", root.dataset.theme);
      } catch {
        // It holds for this page alone.
      }
      say();
    });
  });
})();
