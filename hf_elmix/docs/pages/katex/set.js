// Set the formulas that pymdownx.arithmatex has marked: \(...\) in a line, \[...\] on lines of their own.
for (const element of document.querySelectorAll(".arithmatex")) {
  katex.render(element.textContent.slice(2, -2), element, { displayMode: element.tagName === "DIV", throwOnError: false });
}
