// Archives to analyse, written by us: a zip without compression, of small vulnerable and harmless files.
import { randomBytes } from "node:crypto";

const TABLE = Uint32Array.from({ length: 256 }, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ TABLE[(crc ^ byte) & 0xff];
  return (crc ^ 0xffffffff) >>> 0;
}

/** A zip of `{ name: text or bytes }`, members stored. */
export function zip(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const [name, content] of Object.entries(files)) {
    const path = Buffer.from(name);
    const data = Buffer.from(content);
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(0x0800, 2);
    common.writeUInt16LE(33, 8);
    common.writeUInt32LE(crc32(data), 10);
    common.writeUInt32LE(data.length, 14);
    common.writeUInt32LE(data.length, 18);
    common.writeUInt16LE(path.length, 22);
    const local = Buffer.concat([Buffer.from("PK\x03\x04", "latin1"), common, path, data]);
    directory.push(Buffer.concat([Buffer.from("PK\x01\x02\x14\x00", "latin1"), common, Buffer.alloc(10), u32(offset), path]));
    parts.push(local);
    offset += local.length;
  }
  const central = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.write("PK\x05\x06", 0, "latin1");
  end.writeUInt16LE(directory.length, 8);
  end.writeUInt16LE(directory.length, 10);
  end.writeUInt32LE(central.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...parts, central, end]);
}

function u32(value) {
  const out = Buffer.alloc(4);
  out.writeUInt32LE(value);
  return out;
}

const SERVLET = `package shop;

import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.Statement;
import javax.servlet.http.HttpServlet;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;

public class Orders extends HttpServlet {
    private Connection connection;

    @Override
    protected void doGet(HttpServletRequest request, HttpServletResponse response) throws Exception {
        String id = request.getParameter("id");
        String query = "SELECT * FROM orders WHERE id = '" + id + "'";
        Statement statement = connection.createStatement();
        ResultSet rows = statement.executeQuery(query);
        response.getWriter().println(rows.getString(1));
    }
}
`;
const PYTHON = `import hashlib
import os
from flask import Flask, request

app = Flask(__name__)


@app.route("/ping")
def ping():
    host = request.args.get("host")
    command = "ping -c 1 " + host
    return str(os.system(command))


def fingerprint(password):
    return hashlib.md5(password.encode()).hexdigest()
`;
const SCRIPT = `const { exec } = require("child_process");
const express = require("express");
const app = express();

app.get("/list", (req, res) => {
  const folder = req.query.folder;
  exec("ls " + folder, (error, out) => res.send(out));
});
`;

/** A small shop with holes in three languages. */
export function shop() {
  return zip({ "shop/src/main/java/shop/Orders.java": SERVLET, "shop/tools/ping.py": PYTHON, "shop/web/list.js": SCRIPT, "shop/README.md": "# A shop\n" });
}

/** The same among so many harmless files that the analysis takes a while. */
export function largeShop(copies) {
  const files = { "shop/src/main/java/shop/Orders.java": SERVLET };
  for (let index = 0; index < copies; index += 1) {
    files[`shop/src/main/java/shop/Orders${index}.java`] = SERVLET.replaceAll("Orders", `Orders${index}`) + busy(index);
    files[`shop/tools/ping${index}.py`] = PYTHON;
  }
  return zip(files);
}

function busy(index) {
  return Array.from({ length: 60 }, (_, at) => `\nclass Part${index}x${at} {\n    int step(int value) {\n        int sum = value;\n        for (int turn = 0; turn < ${at}; turn++) {\n            sum = sum * 31 + turn;\n        }\n        return sum;\n    }\n}\n`).join("");
}

/** The shop with ballast, for uploads that take a while. */
export function heavyShop(bytes) {
  return zip({ "shop/src/main/java/shop/Orders.java": SERVLET, "shop/ballast.bin": randomBytes(bytes) });
}
