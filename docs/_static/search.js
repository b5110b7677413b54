// The page of the search: a page of the guide comes before the glossary if both explain a word, and the summary of a
// result shows three dots for a formula instead of its source.
Scorer.score = ([page, , , , score, , kind]) => score + (kind === "index" && page.startsWith("guide/") ? 1 : 0);
const pageToText = Search.htmlToText;
Search.htmlToText = (html, anchor) => {
  const page = new DOMParser().parseFromString(html, "text/html");
  for (const formula of page.querySelectorAll(".math")) formula.textContent = "…";
  return pageToText(page.documentElement.outerHTML, anchor);
};
