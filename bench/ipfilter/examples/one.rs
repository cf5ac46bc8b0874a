#[path = "../src/data.rs"]
#[allow(dead_code)]
mod data;
use data::Family;
use munjigi_ipfilter::RuleSet;
use std::net::IpAddr;
use std::hint::black_box;
fn cpu()->f64{let t=rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);t.tv_sec as f64*1e9+t.tv_nsec as f64}
fn wide(n:usize,lo:u64)->Vec<data::Rule>{
    let mut r=data::Random::new(5); let mut out=Vec::new();
    for _ in 0..n { let p=lo as u32+(r.next()%(33-lo)) as u32; let mut x=data::Rule{v6:false,base:(r.next()&0xffff_ffff) as u128,prefix:p}; x.base&=!x.host_bits(); out.push(x);} out }
fn main(){
    let a:Vec<String>=std::env::args().collect();
    for kind in a[1].split(',') { let mut base=0.0; for n in a[2].split(',') {
        let n:usize=n.parse().unwrap();
        let (fam,rules)=match kind { "v4"=>(Family::V4,data::rules(Family::V4,n,7)),"v6"=>(Family::V6,data::rules(Family::V6,n,7)),"v4c"=>(Family::V4,data::rules(Family::V4Clustered,n,7)),"v6c"=>(Family::V6,data::rules(Family::V6Clustered,n,7)),
          "wide8"=>(Family::V4,wide(n,8)),"wide16"=>(Family::V4,wide(n,16)),"host"=>(Family::V4,wide(n,32)),
          "tile"=>(Family::V4,(0..n as u128).map(|i|data::Rule{v6:false,base:i<<12&0xffff_ffff,prefix:20}).collect()),
          "v6host"=>(Family::V6,{let mut v=data::rules(Family::V6,n,7);let mut r=data::Random::new(3);for x in &mut v{x.prefix=128;x.base|=r.next() as u128&0xffff_ffff_ffff;}v}),_=>panic!()};
        let mut text=String::from("default true\n");
        for r in &rules{text.push_str(&format!("deny from {}/{}\n",data::address(fam.is_v6(),r.base),r.prefix));}
        let t=cpu(); let set=RuleSet::parse(&text).unwrap(); let built=(cpu()-t)/1e9;
        let mut line=String::new();
        if std::env::var("BASE").is_ok(){let ad=data::uniform(fam,1_000_000,11);let mut v=vec![];for _ in 0..7{let t=cpu();let mut s=0u64;for x in black_box(&ad){s+=match x{IpAddr::V4(a)=>u64::from(u32::from(*a)>>7&1),IpAddr::V6(a)=>(u128::from(*a)>>70&1) as u64};}black_box(s);v.push((cpu()-t)/ad.len() as f64);}v.sort_by(f64::total_cmp);line.push_str(&format!(" baseline {:.1}",v[3]));}
        for (name,ad) in [("uniform",data::uniform(fam,1_000_000,11)),("hit",data::hits(&rules,1_000_000,13)),("miss",data::misses(fam,&rules,1_000_000,17))]{
            if ad.is_empty(){continue} if let Ok(n)=std::env::var("ONLY"){ if name=="uniform"{ let n:usize=n.parse().unwrap(); let t=cpu(); for _ in 0..n{let mut s=0u64; for x in black_box(&ad){ let r=set.verdict(*x); s+=u64::from(r.allow);} black_box(s);} println!("{:.1}",(cpu()-t)/1e6/n as f64);} continue}
            let mut v=Vec::new(); let mut w=Vec::new();
            let mask=black_box(0usize);
            for _ in 0..7 { let t=cpu(); let mut s=0u64; for x in black_box(&ad){ let r=set.verdict(*x); s+=u64::from(r.allow);} black_box(s); v.push((cpu()-t)/ad.len() as f64);
              let t=cpu(); let mut s=0usize; for i in 0..ad.len(){ let x:IpAddr=ad[i+(s&mask)]; s=set.verdict(x).rule.map_or(0,|r|r.line as usize);} black_box(s); w.push((cpu()-t)/ad.len() as f64);}
            v.sort_by(f64::total_cmp); w.sort_by(f64::total_cmp);
            if name=="uniform"{ if base==0.0{base=v[3];} line.push_str(&format!(" ratio {:4.1}",v[3]/base)); }
            line.push_str(&format!("  {name} {:6.1} (dep {:6.1})",v[3],w[3]));
        }
        println!("{kind:7} {n:8}: {line}  build {built:.3} B/rule {:.1}",set.as_bytes().len() as f64/n as f64);
    }}
}
