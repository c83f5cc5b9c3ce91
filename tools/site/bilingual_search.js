// A query is cut as the pages were: words, and Chinese in pairs of characters.
function splitQuery(query) {
  const runs = query.match(/[\u3400-\u9fff]+|(?:(?![\u3400-\u9fff])[\p{L}\p{N}_])+/gu) || [];
  return runs.flatMap((run) => {
    if (!/^[\u3400-\u9fff]{2,}$/.test(run)) return [run];
    return Array.from({ length: run.length - 1 }, (_, at) => run.slice(at, at + 2));
  });
}

// Sphinx lets a page lack all terms of one or two characters, which in English say little. Without
// this, what is Chinese in a query of both languages would count for nothing. Furo loads this script
// behind searchtools.js, where Search is.
const searchTerms = Search.performTermsSearch;
Search.performTermsSearch = (terms, excluded) => {
  const { docnames, terms: inText, titleterms: inTitle } = Search._index;
  const chinese = [...terms].filter((term) => /^[\u3400-\u9fff]/.test(term));
  const has = (index, term, page) =>
    Object.hasOwn(index, term) && [index[term]].flat().includes(page);
  return searchTerms(terms, excluded).filter(([name]) => {
    const page = docnames.indexOf(name);
    return chinese.every((term) => has(inText, term, page) || has(inTitle, term, page));
  });
};
