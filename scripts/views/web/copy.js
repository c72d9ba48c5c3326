// Tables as comma-separated values, for the clipboard.

function csvOf(head, rows) {
  // A text that holds a sign of the format is quoted, as RFC 4180 has it.
  const cell = (value) => (/[",\r\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  return [head, ...rows].map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

// A button that copies what `text` gives, and says whether it did.
function copyButton(text) {
  const words = "copy as CSV";
  const button = make("button", { type: "button", onclick: async () => {
    const done = await copyText(text());
    button.textContent = done ? "copied" : "the browser does not allow it";
    setTimeout(() => { button.textContent = words; }, 2000);
  } }, words);
  return button;
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Where that is not allowed, as in a page from a plain server, the old way often is.
    const area = make("textarea", { style: { position: "fixed", opacity: "0" } });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

function waitsCsv(run, order) {
  const { waits } = run, at = (tick) => ((tick - run.begin) * run.tick_us).toFixed(3);
  const head = ["run", "block", "page", run.waiter, "start_us", "answer", "wait_us", ...run.stages.map((stage) => `${stage}_us`), "why"];
  return csvOf(head, order.map((i) => [
    run.name, run.blocks[waits.block[i]].name, waits.page[i], waits.vcpu[i], at(waits.start[i]), waits.answers[i], waits.latency[i].toFixed(3),
    ...(stagesOf(run, i)?.map((us) => us.toFixed(3)) ?? run.stages.map(() => "")), whyOf(run, i),
  ]));
}
