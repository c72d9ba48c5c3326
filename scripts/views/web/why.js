// Why a wait was as long as it was, in one sentence: from the source's answer to its request, what
// went before it, what broke meanwhile, and the longest of its stages.

// How many of the pages that went before are named.
const NAMED_MAX = 3;

// What became of a request, by the source's answer; `behind` is what went before the page.
const ANSWER_WORDS = {
  queued: (behind) => (behind ? `it was sent in its turn, ${behind}` : "it was sent on request, and no other page went before it"),
  boosted: (behind) => `it lay half-sent when the request came, and its rest was sent on request, ${behind || "and no other page went before it"}`,
  "urgent-in-place": () => "it was being sent in the background when the request came, and became urgent on its way",
  "sent-again": () => "it lay in the precopy connection behind other bytes when the request came, and went once more over the postcopy connection",
  "already-sent": () => "all of it was with the socket before the request came, so nothing had to be sent",
  postponed: (behind) => `the background had begun it when the request came, and the policy put the request off${behind ? `, ${behind}` : ""}`,
  duplicate: () => "it was already being sent for another request",
};

function whyOf(run, wait) {
  const { waits } = run, words = [causeOf(run, wait), breakOf(run, wait)].filter(Boolean);
  return `${leadOf(run, wait)}${words.length ? `: ${words.join("; ")}` : ""}${longestOf(run, wait)}.`;
}

function leadOf(run, wait) {
  const { waits } = run, time = sayTime(waits.latency[wait]);
  const page = `page ${sayPage(run, waits.block[wait], waits.page[wait])}`;
  if (run.waiter === "request") return `A request for ${page} took ${time}`;
  if (waits.wake[wait] === NEVER) return `vCPU ${waits.vcpu[wait]} had waited ${time} for ${page} when the events end`;
  return `vCPU ${waits.vcpu[wait]} waited ${time} for ${page}`;
}

function causeOf(run, wait) {
  const { waits, sends } = run, answer = waits.answers[wait], behind = behindOf(run, wait) || (answer === "postponed" ? overtakenBy(run, wait) : "");
  if (answer in ANSWER_WORDS) return ANSWER_WORDS[answer](behind);
  if (behind) return `it came ${behind}`;
  const send = waits.send[wait];
  if (waits.wake[wait] === NEVER) return "";
  return send === NEVER ? "the source did not tell what it did with the request" : `it came as ${BARS[barOf(sends.kind[send])].words}`;
}

// "behind page 9", "behind 12 pages (9, 10, 11 and 9 more)"; empty where nothing went before.
function behindOf(run, wait) {
  const [pages, count] = run.waits.behind[wait] ?? [[], 0];
  if (!count) return "";
  const named = pages.slice(0, NAMED_MAX).map(([block, page]) => sayPage(run, block, page));
  if (count === 1) return `behind page ${named[0]}`;
  const more = count - named.length;
  const last = more ? `${sayCount(more)} more` : named.pop();
  return `behind ${sayCount(count)} pages (${named.join(", ")} and ${last})`;
}

// How many pages were sent on request while a request was put off: the source does not tell of those.
function overtakenBy(run, wait) {
  const { waits, sends } = run, served = waits.send[wait];
  if (served === NEVER) return "";
  const pages = new Set();
  for (let i = 0; i < sends.count; i += 1) {
    if (kindOf(sends.kind[i]) && sends.end[i] > waits.start[wait] && sends.start[i] < sends.start[served]) pages.add(`${sends.block[i]}:${sends.page[i]}`);
  }
  return pages.size ? `until ${sayMany(pages.size, "other page")} had been sent on request` : "";
}

// What became of a wait that went through stages twice: its connection broke, or its bytes changed.
function breakOf(run, wait) {
  const parts = run.waits.parts[wait] ?? [], stages = stagesOf(run, wait);
  const without = stages?.[run.stages.indexOf("broken")] ?? 0;
  if (without > 0) return `a connection broke meanwhile, and it was requested again after ${sayTime(without)} without one`;
  return parts.length ? "its bytes came changed, and were sent again" : "";
}

function longestOf(run, wait) {
  const stages = stagesOf(run, wait);
  const whole = stages?.reduce((sum, us) => sum + us, 0);
  if (!whole) return "";
  const at = stages.indexOf(Math.max(...stages));
  return `; the longest part: ${run.stage_words[at]} (${sayTime(stages[at])}, ${sayShare(stages[at] / whole)})${onTheLink(run, wait, run.stages[at])}`;
}

// How long the link needs for what was sent, where sending was what took longest.
function onTheLink(run, wait, stage) {
  const send = run.waits.send[wait];
  if (!run.link_rate || send === NEVER || !["send", "receive"].includes(stage)) return "";
  const bytes = run.sends.bytes[send];
  // Of a page that went in parts nobody knows which of them was waited for.
  if (run.sends.pages[send] !== 1 || bytes < run.blocks[run.waits.block[wait]].page_bytes) return "";
  return `, of which the link needs ${sayTime(bytes / run.link_rate * 1e6)} for ${sayBytes(bytes)}`;
}
