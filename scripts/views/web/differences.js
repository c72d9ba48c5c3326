// Two runs beside each other: what the second came to, against the first.

// "+12 ms (1.8 times)", "−12 ms (−40 %)"; empty where one of the two is not known.
function sayDifference(first, second, say) {
  if (first === null || second === null) return "";
  if (first === second) return "the same";
  const size = say(Math.abs(second - first)), times = first > 0 && second > 0 ? second / first : null;
  // A multiple of what it was, or by what part of that it is less.
  const factor = times === null ? "" : times > 1 ? ` (${threeDigits(times)} times)` : ` (−${threeDigits((1 - times) * 100)} %)`;
  return `${second > first ? "+" : "−"}${size}${factor}`.replaceAll(" ", "\u00a0");
}

// The head of a column of differences, where there are two runs.
const differenceHead = (runs) => (runs.length === 2 ? [`${runs[1].name} against ${runs[0].name}`] : []);

// The cell for two runs: `value` gives a run's number, null for none.
const differenceCell = (runs, value, say) => (runs.length === 2 ? [value ? sayDifference(value(runs[0]), value(runs[1]), say) : ""] : []);

// What waits were made of, on average.
function stageTable(runs) {
  if (!runs.some((run) => run.staged_waits)) return null;
  const mean = (at) => (run) => (run.staged_waits ? run.stage_totals_us[at] / run.staged_waits : null);
  return table("What a wait was made of, on average", ["stage", ...runs.map((run) => run.name), ...differenceHead(runs)],
    runs[0].stages.map((stage, at) => [`${stage}: ${runs[0].stage_words[at]}`, ...runs.map((run) => (run.staged_waits ? sayTime(mean(at)(run)) : "none")), ...differenceCell(runs, mean(at), sayTime)]));
}
