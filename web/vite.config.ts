import { defineConfig } from "vite";

// One script and one style sheet with fixed names: a wheel carries them, and CI builds them again to the same bytes.
export default defineConfig({
  base: "/static/",
  build: {
    outDir: "../midstream/web/static",
    emptyOutDir: true,
    modulePreload: false,
    cssCodeSplit: false,
    target: "es2022",
    cssTarget: ["chrome125", "firefox128", "safari18"], // light-dark() as it is written
    rollupOptions: {
      output: {
        entryFileNames: "app.js",
        assetFileNames: "app[extname]",
        codeSplitting: false,
      },
    },
  },
});
