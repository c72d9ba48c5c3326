// The story of one page, of one send, of one wait, in words.

// Everything that happened to a page, in the order of time.
function momentsOf(run, block, page) {
  const { sends, waits, requests, placed } = run;
  const moments = [];
  const tell = (tick, words, kind) => moments.push({ tick, words, kind });
  const holds = (part, i, pages = 1) => part.block[i] === block && part.page[i] <= page && page < part.page[i] + pages;
  for (let i = 0; i < sends.count; i += 1) {
    if (!holds(sends, i, sends.pages[i])) continue;
    const words = `${BARS[barOf(sends.kind[i])].words}`;
    const end = ["all of it is sent", "broken off: preempted", "a part is sent", "the connection is lost"][endOf(sends.kind[i])];
    tell(sends.start[i], `send begins (${words})`, "send");
    if (sends.urgent[i] !== NEVER) tell(sends.urgent[i], "becomes urgent on its way", "urgent");
    tell(sends.end[i], `${end}${sends.bytes[i] ? `, ${sayBytes(sends.bytes[i])}` : ""}, ${run.channels[channelOf(sends.kind[i])]} channel`, "send");
  }
  for (let i = 0; i < waits.count; i += 1) {
    if (!holds(waits, i)) continue;
    tell(waits.start[i], `vCPU ${waits.vcpu[i]} touches it and waits`, "wait");
    if (waits.wake[i] !== NEVER) tell(waits.wake[i], `vCPU ${waits.vcpu[i]} runs again after ${sayTime(waits.latency[i])}`, "wake");
  }
  for (let i = 0; i < requests.count; i += 1) {
    if (!holds(requests, i)) continue;
    tell(requests.asked[i], "requested", "request");
    if (requests.came[i] !== NEVER) tell(requests.came[i], `the source has the request: ${requests.answers[requests.answer[i]] || "taken"}`, "request");
  }
  for (let i = 0; i < placed.count; i += 1) if (holds(placed, i, placed.pages[i])) tell(placed.time[i], "placed", "placed");
  for (const [tick, , event, fields] of run.notes) {
    if (event === "boost" && fields.block === block && fields.page === page) tell(tick, "boosted: goes on urgently where it stopped", "boost");
  }
  return moments.sort((one, other) => one.tick - other.tick);
}

function stagesOf(run, wait) {
  const count = run.stages.length;
  const values = Array.from(run.waits.stages.subarray(wait * count, (wait + 1) * count));
  return values.every((value) => value >= 0) ? values : null;
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
    ["", "broken off for a request", "more of the page goes by itself", "the connection was lost"][endOf(sends.kind[i])],
  ].filter(Boolean).join("\n");
}

function describeWait(run, i) {
  const { waits } = run, stages = stagesOf(run, i);
  const send = waits.send[i] === NEVER ? null : run.sends.kind[waits.send[i]];
  return [
    `vCPU ${waits.vcpu[i]} waits for page ${sayPage(run, waits.block[i], waits.page[i])}: ${sayTime(waits.latency[i])}${waits.wake[i] === NEVER ? ", and still did" : ""}`,
    `from ${since(run, waits.start[i])}`,
    send === null ? "" : `served by: ${BARS[barOf(send)].words}`,
    ...(stages ? run.stages.map((stage, at) => `${stage}: ${sayTime(stages[at])}`) : ["no stages were told"]),
  ].filter(Boolean).join("\n");
}

function detailOf(run, block, page) {
  const moments = momentsOf(run, block, page);
  return [
    make("p", { class: "key" }, `Page ${sayPage(run, block, page)} of ${run.name}`),
    moments.length
      ? make("ol", {}, ...moments.map((moment) => make("li", {}, `${since(run, moment.tick)}: ${moment.words}`)))
      : make("p", {}, "Nothing happened to this page."),
  ];
}
