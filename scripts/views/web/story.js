// The story of one page, of one send, of one wait, in words.

// Everything that happened to a page, or what happened to it during one wait, in the order of time.
function momentsOf(run, block, page, wait = null) {
  const { sends, waits, requests, placed } = run;
  const moments = [];
  const [from, to] = wait === null ? [0, NEVER] : [waits.start[wait], waits.wake[wait]];
  const tell = (tick, words, kind) => { if (tick >= from && tick <= to) moments.push({ tick, words, kind }); };
  const holds = (part, i, pages = 1) => part.block[i] === block && part.page[i] <= page && page < part.page[i] + pages;
  for (let i = 0; i < sends.count; i += 1) {
    if (!holds(sends, i, sends.pages[i])) continue;
    const words = `${BARS[barOf(sends.kind[i])].words}`;
    const end = ["all of it is sent", "interrupted (preempted)", "a part is sent", "the connection is lost"][endOf(sends.kind[i])];
    tell(sends.start[i], `send begins (${words})`, "send");
    if (sends.urgent[i] !== NEVER) tell(sends.urgent[i], "becomes urgent on its way", "urgent");
    tell(sends.end[i], `${end}${sends.bytes[i] ? `, ${sayBytes(sends.bytes[i])}` : ""}, ${run.channels[channelOf(sends.kind[i])]} channel`, "send");
  }
  for (let i = 0; i < waits.count; i += 1) {
    if (!holds(waits, i) || (wait !== null && i !== wait)) continue;
    tell(waits.start[i], run.waiter === "request" ? `request ${waits.vcpu[i]} for it passes` : `vCPU ${waits.vcpu[i]} touches it and waits`, "wait");
    if (waits.wake[i] !== NEVER) tell(waits.wake[i], `${run.waiter} ${waits.vcpu[i]} ${run.waiter === "request" ? "is served" : "runs again"} after ${sayTime(waits.latency[i])}`, "wake");
  }
  for (let i = 0; i < requests.count; i += 1) {
    if (!holds(requests, i)) continue;
    tell(requests.asked[i], "requested", "request");
    if (requests.came[i] !== NEVER) tell(requests.came[i], `the source has the request: ${requests.answers[requests.answer[i]] || "taken"}`, "request");
  }
  for (let i = 0; i < placed.count; i += 1) if (holds(placed, i, placed.pages[i])) tell(placed.time[i], "placed", "placed");
  for (const [tick, , event, fields] of run.notes) {
    if (event === "overtake" && fields.block === block && fields.page === page) tell(tick, "a target page of it lies behind others: it goes again, postcopy channel", "boost");
    if (event === "boost" && fields.block === block && fields.page === page) tell(tick, "boosted: goes on urgently where it stopped", "boost");
  }
  return moments.sort((one, other) => one.tick - other.tick);
}

function stagesOf(run, wait) {
  const count = run.stages.length;
  const values = Array.from(run.waits.stages.subarray(wait * count, (wait + 1) * count));
  return values.every((value) => value >= 0) ? values : null;
}

// The stages of a wait in the order of time, as [stage, microseconds].
function partsOf(run, wait) {
  return run.waits.parts[wait] ?? stagesOf(run, wait)?.map((value, at) => [at, value]) ?? null;
}

// Why the source did not send it at once.
function answerOf(run, wait) {
  const [pages, count] = run.waits.behind[wait] ?? [[], 0];
  const more = count > pages.length ? ` and ${sayCount(count - pages.length)} more` : "";
  const behind = pages.map(([block, page]) => sayPage(run, block, page)).join(", ");
  return `${run.waits.answers[wait]}${count ? `, behind ${count === 1 ? "page" : "pages"} ${behind}${more}` : ""}`;
}

const since = (run, tick) => sayTime((tick - run.begin) * run.tick_us);

function describe(run, found) {
  if (found.wait !== undefined) return describeWait(run, found.wait);
  const { sends } = run, i = found.send, bar = BARS[barOf(sends.kind[i])];
  const last = sends.page[i] + sends.pages[i] - 1;
  const pages = sends.pages[i] === 1 ? `page ${sayPage(run, sends.block[i], sends.page[i])}` : `pages ${sayPage(run, sends.block[i], sends.page[i])} to ${last}`;
  return [
    `${pages}: ${bar.words}`,
    `${since(run, sends.start[i])} to ${since(run, sends.end[i])}, ${sayTime((sends.end[i] - sends.start[i]) * run.tick_us)}`,
    sends.bytes[i] ? `${sayBytes(sends.bytes[i])} went` : "",
    ["", "interrupted for a request", "more of the page goes by itself", "the connection was lost"][endOf(sends.kind[i])],
  ].filter(Boolean).join("\n");
}

function describeWait(run, i) {
  const { waits } = run, stages = stagesOf(run, i);
  const send = waits.send[i] === NEVER ? null : run.sends.kind[waits.send[i]];
  return [
    `${run.waiter} ${waits.vcpu[i]} waits for page ${sayPage(run, waits.block[i], waits.page[i])}: ${sayTime(waits.latency[i])}${waits.wake[i] === NEVER ? ", and still did" : ""}`,
    `from ${since(run, waits.start[i])}`,
    send === null ? "" : `served by: ${BARS[barOf(send)].words}`,
    waits.answers[i] ? `answered: ${answerOf(run, i)}` : "",
    ...(stages ? run.stages.map((stage, at) => [stage, stages[at], run.stage_words[at]]).filter(([, us]) => us > 0).map(([stage, us, words]) => `${stage}: ${sayTime(us)} (${words})`) : ["no stages recorded"]),
  ].filter(Boolean).join("\n");
}

// Moments of one page lie microseconds apart in a run of seconds.
const sayMicroseconds = (us) => sayCount(Math.round(us)).replace(/^-/, "\u2212");

// The story of a page, or of one wait for it.
function detailOf(run, block, page, wait = null) {
  const moments = momentsOf(run, block, page, wait);
  const rows = moments.map((moment, at) => [
    sayMicroseconds((moment.tick - run.begin) * run.tick_us),
    at ? `+${sayMicroseconds((moment.tick - moments[at - 1].tick) * run.tick_us)}` : "",
    moment.words,
  ]);
  const cells = (row) => row.map((value, at) => make("td", at < 2 ? { class: "n" } : {}, value));
  return [
    make("p", { class: "key" }, `Page ${sayPage(run, block, page)} of ${run.name}`),
    wait === null ? null : make("p", { class: "why" }, keepUnits(whyOf(run, wait))),
    wait === null ? null : make("p", { class: "wait" }, describeWait(run, wait)),
    moments.length
      ? make("div", { class: "scroll" }, make("table", {},
        make("caption", {}, wait === null ? "All that happened to the page" : "What happened to the page during this wait"),
        make("thead", {}, make("tr", {}, ...["microseconds since the first page", "later by", "what"].map((name, at) => make("th", { scope: "col", ...(at < 2 ? { class: "n" } : {}) }, name)))),
        make("tbody", {}, ...rows.map((row) => make("tr", {}, ...cells(row))))))
      : make("p", {}, "Nothing happened to this page."),
    wait === null ? null : make("button", { type: "button", onclick: (event) => event.target.parentElement.replaceChildren(...detailOf(run, block, page)) }, "the whole story of the page"),
  ].filter(Boolean);
}
