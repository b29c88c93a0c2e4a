// The claims table shows the rows that fit all three filters; "#b-rise" in the address opens that claim.
const form = document.getElementById("filters");
const rows = [...document.querySelectorAll("#claims tbody tr")];
function filter() {
  const { paper, verdict, words } = Object.fromEntries(new FormData(form));
  const wanted = words.toLowerCase().split(/\s+/);
  for (const row of rows) {
    const { dataset, textContent } = row;
    row.hidden = !(
      (!paper || dataset.paper === paper) &&
      (!verdict || dataset.verdict === verdict || (verdict === "judged" && dataset.judged)) &&
      wanted.every((word) => textContent.toLowerCase().includes(word))
    );
  }
  document.getElementById("shown").value = `${rows.filter((row) => !row.hidden).length} of ${rows.length} claims`;
}
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
document.querySelector(`${location.hash || "#none"} details`)?.setAttribute("open", "");
filter();
