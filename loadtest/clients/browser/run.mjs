// The browser suite: real livekit-client in real Chromium and Firefox against the release binary.
//
//   node run.mjs [FILTER]     only scenarios whose "variant / name" contains FILTER
//
// Ends with status 1 if any scenario fails; never skips one.
import { enterNamespace } from './lib/namespace.mjs';
import { launch, servePage } from './lib/browser.mjs';
import { launchFirefox } from './lib/firefox.mjs';
import { Machine } from './lib/machine.mjs';
import { Server, VARIANTS } from './lib/server.mjs';
import { scenarios } from './scenarios/index.mjs';

/// The scenarios watch browsers decode in real time, so chance has a part in them. A fault of ours fails twice; both accounts are
/// printed.
const ATTEMPTS = 2;
/// A failure while the machine itself stood still says nothing of the server: measured again, so many times.
const VOID = 4;

/// One scenario until it passes or has failed; true if it passed.
async function runScenario(scenario, name, server, browsers, machine) {
  let failed = 0;
  for (let attempt = 1; failed < ATTEMPTS && attempt <= ATTEMPTS + VOID; attempt++) {
    const start = Date.now();
    const took = () => `(${((Date.now() - start) / 1000).toFixed(1)} s)`;
    try {
      const detail = await scenario.run({ server, machine, ...browsers, room: `${name} ${attempt}` });
      console.log(`ok    ${name} ${took()} ${attempt > 1 ? `ON ATTEMPT ${attempt}: ` : ''}${detail ?? ''}`);
      return true;
    } catch (error) {
      const away = machine.stoodStill(start, Date.now());
      if (!away) failed++;
      console.log(`${away ? 'VOID' : 'FAIL'}  ${name} ${took()}, attempt ${attempt}\n${error.stack}`);
      if (away) console.log(`The machine stood still: ${away}`);
    } finally {
      for (const context of Object.values(browsers)) await Promise.all(context.pages().slice(1).map((page) => page.close()));
    }
  }
  return false;
}

async function runVariant(variant, chosen, browsers, machine) {
  const failures = [];
  const server = await Server.start(variant);
  try {
    for (const scenario of chosen) {
      const name = `${variant} / ${scenario.name}`;
      if (!(await runScenario(scenario, name, server, browsers, machine))) failures.push(name);
    }
  } finally {
    await server.stop().catch((error) => failures.push(`${variant}: ${error.message}`));
  }
  return failures;
}

if (enterNamespace()) {
  const filter = process.argv[2] ?? '';
  const page = await servePage();
  const chosenOf = (variant) =>
    scenarios.filter(
      (scenario) =>
        (scenario.only?.includes(variant) ?? !VARIANTS[variant].named) && `${variant} / ${scenario.name}`.includes(filter),
    );
  const browsers = { one: await launch(), two: await launch() };
  if (Object.keys(VARIANTS).some((variant) => chosenOf(variant).some((scenario) => scenario.fox))) browsers.fox = await launchFirefox();
  const machine = Machine.watch();
  const failures = [];
  let ran = 0;
  try {
    for (const variant of Object.keys(VARIANTS)) {
      const chosen = chosenOf(variant);
      ran += chosen.length;
      if (chosen.length) failures.push(...(await runVariant(variant, chosen, browsers, machine)));
    }
  } finally {
    for (const browser of Object.values(browsers)) await browser.close();
    machine.close();
    page.close();
  }
  console.log(`${Math.max(0, ran - failures.length)} passed, ${failures.length} failed`);
  failures.forEach((name) => console.log(`failed: ${name}`));
  process.exit(failures.length || !ran ? 1 : 0);
}
